"""Policies in environments: chains of episodes, one after another in one context, several chains at a time.

Half of the chains act while the other half steps: the groups run in threads, and MuJoCo and XLA both let
other threads run while they work.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

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
        """[B, O] float32 -> actions [B, A] float32 in [-1, 1]."""

    def observe(self, rewards: np.ndarray, last: bool) -> None:
        """[B] float32, environment units: what the actions earned, and whether the episodes end here."""


class Outcome(NamedTuple):
    """What was played: entry [c, e] is episode e of chain c."""

    returns: np.ndarray  # [chains, episodes] float64, environment units
    lengths: np.ndarray  # [chains, episodes] int64, steps


Start = tuple[int, int]
"""(chain, episode): an episode's place, which alone decides its initial state."""


def initial_seed(seed: int, start: Start) -> int:
    """The seed of an episode's initial state: the same for every policy, protocol and number of threads."""
    return int(np.random.SeedSequence((seed, *start)).generate_state(1)[0])


def play_chains(
    make_env: Callable[[], gymnasium.Env],
    make_policy: Callable[[int], Policy],
    *,
    chains: int,
    episodes: int,
    target_return: float,
    seed: int,
    threads: int,
    label: str = "own episodes in context",
) -> Outcome:
    """Every chain plays `episodes` episodes; a policy for B chains comes from make_policy(B)."""
    starts = [[(c, e) for e in range(episodes)] for c in range(chains)]
    returns, lengths = _play(make_env, make_policy, starts, target_return, seed, threads, False, label)
    return Outcome(returns, lengths)


def play_alone(
    make_env: Callable[[], gymnasium.Env],
    make_policy: Callable[[int], Policy],
    *,
    chains: int,
    episodes: int,
    target_return: float,
    seed: int,
    threads: int,
    at_once: int = 32,
    label: str = "empty context",
) -> Outcome:
    """The control: the same initial states as play_chains, each episode with an empty context.

    Nothing links the episodes, so `at_once` of them run side by side whatever their chain.
    """
    starts = [(c, e) for c in range(chains) for e in range(episodes)]
    lanes = min(len(starts), max(at_once, threads))
    queues = [starts[lane::lanes] for lane in range(lanes)]
    longest = max(map(len, queues))
    padded = [queue + queue[:1] * (longest - len(queue)) for queue in queues]
    played = _play(make_env, make_policy, padded, target_return, seed, threads, True, label)
    outcome = Outcome(np.zeros((chains, episodes)), np.zeros((chains, episodes), np.int64))
    for lane, queue in enumerate(queues):
        for i, (c, e) in enumerate(queue):
            outcome.returns[c, e], outcome.lengths[c, e] = played[0][lane, i], played[1][lane, i]
    return outcome


def _play(
    make_env: Callable[[], gymnasium.Env],
    make_policy: Callable[[int], Policy],
    starts: Sequence[Sequence[Start]],
    target_return: float,
    seed: int,
    threads: int,
    forget: bool,
    label: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Lane i plays the episodes starts[i] in turn -> returns and lengths, [lanes, episodes]."""
    lanes, episodes = len(starts), len(starts[0])
    returns, lengths = np.zeros((lanes, episodes)), np.zeros((lanes, episodes), np.int64)
    groups = [g for g in np.array_split(np.arange(lanes), min(threads, lanes)) if len(g)]
    bar = tqdm(total=lanes * episodes, desc=label, unit="episode", disable=None)

    def run(group: np.ndarray) -> None:
        envs = [make_env() for _ in group]
        policy = make_policy(len(group))
        policy.reset()
        for e in range(episodes):
            if forget:
                policy.reset()
            policy.begin(target_return)
            seeds = [initial_seed(seed, starts[lane][e]) for lane in group]
            returns[group, e], lengths[group, e] = _episode(envs, policy, seeds)
            bar.update(len(group))
        for env in envs:
            env.close()

    with bar, ThreadPoolExecutor(len(groups)) as pool:
        list(pool.map(run, groups))
    return returns, lengths


def _episode(envs: list[gymnasium.Env], policy: Policy, seeds: list[int]) -> tuple[np.ndarray, int]:
    observations = np.stack([env.reset(seed=s)[0] for env, s in zip(envs, seeds, strict=True)])
    total, length, ended = np.zeros(len(envs)), 0, False
    while not ended:
        actions = policy.act(observations)
        steps = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        observations = np.stack([step[0] for step in steps])
        rewards = np.array([step[1] for step in steps], np.float32)
        ends = {bool(step[2] or step[3]) for step in steps}
        if len(ends) > 1:
            raise NotImplementedError(
                "rollout: expected all episodes played side by side to end at the same step, got different "
                "lengths; evaluate with one chain at a time (--chains 1)"
            )
        ended = ends.pop()
        policy.observe(rewards, ended)
        total, length = total + rewards, length + 1
    return total, length
