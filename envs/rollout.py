"""Policies in environments: chains of episodes, one after another in one context, several chains at a time.

Chains are dealt out to processes: stepping MuJoCo through Python holds the interpreter's lock too long for threads to
help. On an accelerator one process plays them all.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from tqdm import tqdm


class Policy(Protocol):
    """What a rollout needs of a policy that acts for B chains in lockstep."""

    def reset(self) -> None:
        """Forget everything: the next episode is the first of its chain."""

    def begin(self, target_return: float) -> None:
        """Start the next episode of every chain and ask for this return; what was played before is context."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        """[B, O] float32 -> actions [B, A] float32 in [-1, 1]. The array is used again for the next observations."""

    def observe(self, rewards: np.ndarray, last: np.ndarray) -> None:
        """[B] float32, environment units: what the actions earned; [B] bool: whether the episodes end with it.

        An episode that has ended waits for the others: until then nothing is asked of its chain that counts.
        """


MakePolicy = Callable[[Sequence[int]], Policy]


class Outcome(NamedTuple):
    """What was played: entry [c, e] is episode e of chain c."""

    returns: np.ndarray  # [chains, episodes] float64, environment units
    lengths: np.ndarray  # [chains, episodes] int64, steps


Start = tuple[int, int]
"""(chain, episode): an episode's place, which alone decides its initial state."""


def initial_seed(seed: int, start: Start) -> int:
    """The seed of an episode's initial state: the same for every policy, protocol and number of processes."""
    return int(np.random.SeedSequence((seed, *start)).generate_state(1)[0])


ALONE = 16
"""Episodes played side by side when nothing links them: more share a step of the policy, fewer fit the cache."""


def play(
    make_env: Callable[[], gymnasium.Env],
    make_policy: MakePolicy,
    *,
    chains: int,
    episodes: int,
    target_return: float,
    seed: int,
    processes: int,
    context: bool,
    label: str = "",
) -> Outcome:
    """Every chain plays `episodes` episodes.

    Args:
      make_policy: numbers of chains [B] -> a policy for them; they are numbered alike in any number of processes.
      context: whether a chain's earlier episodes stay in its context. Without, which is the control, every episode
        starts from the same initial state as with it, and the policy is reset before it.
      label: of the progress bar.
    """
    if context:
        starts = [[(c, e) for e in range(episodes)] for c in range(chains)]
    else:
        every = [(c, e) for c in range(chains) for e in range(episodes)]
        lanes = min(len(every), max(ALONE, processes))
        # Lanes are as long as the longest; those that would end before play an episode again.
        starts = [(every[lane::lanes] + every[lane:])[: -(-len(every) // lanes)] for lane in range(lanes)]
    returns, lengths = _play(make_env, make_policy, starts, target_return, seed, processes, not context, label)
    outcome = Outcome(np.zeros((chains, episodes)), np.zeros((chains, episodes), np.int64))
    for lane, lane_starts in enumerate(starts):
        for i, start in enumerate(lane_starts):
            outcome.returns[start], outcome.lengths[start] = returns[lane, i], lengths[lane, i]
    return outcome


Job = tuple[Callable[[], gymnasium.Env], MakePolicy, list[int], list[list[Start]], float, int, bool]
"""What a process is given: environments, policy, its lanes and their starts, target return, seed, whether to forget."""


def _play(
    make_env: Callable[[], gymnasium.Env],
    make_policy: MakePolicy,
    starts: Sequence[list[Start]],
    target_return: float,
    seed: int,
    processes: int,
    forget: bool,
    label: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Lane i plays the episodes starts[i] in turn -> returns and lengths, [lanes, episodes]."""
    lanes, episodes = len(starts), len(starts[0])
    returns, lengths = np.zeros((lanes, episodes)), np.zeros((lanes, episodes), np.int64)
    groups = np.array_split(np.arange(lanes), min(processes, lanes))
    jobs: list[Job] = [
        (make_env, make_policy, group.tolist(), [starts[lane] for lane in group], target_return, seed, forget)
        for group in groups
    ]
    played = _in_processes(jobs) if len(jobs) > 1 else ((0, *each) for each in _episodes(*jobs[0]))
    with tqdm(total=lanes * episodes, desc=label, unit="episode", disable=None) as bar:
        for number, episode, total, length in played:
            returns[groups[number], episode], lengths[groups[number], episode] = total, length
            bar.update(len(groups[number]))
    return returns, lengths


def _episodes(
    make_env: Callable[[], gymnasium.Env],
    make_policy: MakePolicy,
    lanes: list[int],
    starts: list[list[Start]],
    target_return: float,
    seed: int,
    forget: bool,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Play lanes side by side; after each episode: its number, returns and lengths of the lanes."""
    envs = [make_env() for _ in starts]
    policy = make_policy(lanes)
    policy.reset()
    for episode in range(len(starts[0])):
        if forget:
            policy.reset()
        policy.begin(target_return)
        yield episode, *_episode(envs, policy, [initial_seed(seed, lane[episode]) for lane in starts])
    for env in envs:
        env.close()


def _in_processes(jobs: list[Job]) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Every job in a process of its own; what `_episodes` yields, as it comes, behind the number of its job."""
    context = multiprocessing.get_context("spawn")  # JAX and fork do not mix
    messages = context.Queue()
    workers = [
        context.Process(target=_work, args=(messages, number, job), daemon=True) for number, job in enumerate(jobs)
    ]
    _start(workers)
    try:
        left = sum(len(job[3][0]) for job in jobs)
        while left:
            try:
                message = messages.get(timeout=1)
            except queue.Empty:
                dead = [worker.exitcode for worker in workers if worker.exitcode]
                if dead:
                    raise RuntimeError(f"a rollout process ended with exit code {dead[0]}") from None
                continue
            if isinstance(message, Exception):
                raise message
            yield message
            left -= 1
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _start(workers: Sequence[Any]) -> None:
    """Start processes that Ctrl-C does not end: a terminal sends it to all, and what is to be done the parent knows."""
    if not hasattr(signal, "pthread_sigmask"):
        before = None
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which a process inherits
    try:
        for worker in workers:
            worker.start()
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process when the one that started it is gone: `kill -9` of a parent ends none of its children."""

    def wait(parent: Any) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, args=(multiprocessing.parent_process(),), daemon=True).start()


def _work(messages: Any, number: int, job: Job) -> None:
    end_with_parent()
    if hasattr(os, "sched_setaffinity"):  # one core each, or the thread pools of XLA get in one another's way
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    try:
        for played in _episodes(*job):
            messages.put((number, *played))
    except Exception as error:  # told to the parent, which raises it
        messages.put(_picklable(error))


def _picklable(error: Exception) -> Exception:
    """The same, or its words where it could not reach the parent, which would wait for ever."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))  # as queues send it
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _episode(envs: list[gymnasium.Env], policy: Policy, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One episode in every environment -> returns and lengths; those that end early wait for the rest."""
    observations = np.array([env.reset(seed=s)[0] for env, s in zip(envs, seeds, strict=True)])
    totals, lengths, alive = np.zeros(len(envs)), np.zeros(len(envs), np.int64), np.ones(len(envs), bool)
    while alive.any():
        actions = policy.act(observations)
        rewards, last = np.zeros(len(envs), np.float32), np.zeros(len(envs), bool)
        for lane in np.flatnonzero(alive):
            observations[lane], rewards[lane], terminated, truncated, _ = envs[lane].step(actions[lane])
            last[lane] = terminated or truncated
        policy.observe(rewards, last)
        totals, lengths, alive = totals + rewards, lengths + alive, alive & ~last
    return totals, lengths
