"""Acting step by step: the key/value cache between network and environment.

Nothing is ever run twice. With keep = 0 the cache holds every token of the latest trajectories as it was played. With
keep > 0 the current trajectory lies in a ring of its latest steps, and when it ends its kept steps, cut by the rule
of the training chains (data/chain.py), are appended to the context once. Both equal one forward pass over the
finished chain under the mask of training: tests/test_parity.py. Chains act in lockstep; one whose episode ends before
the others waits, and what is written for it meanwhile is no token of its chain.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from agent import cached_steps, tokens, transformer
from agent.cached_steps import Clock, Slots
from agent.config import ModelConfig
from agent.transformer import Weights
from data.chain import Attempt, ChainRules, Steps, completed, cut_past, order
from data.scaling import Scaling
from data.trajectory import Trajectory

PREFILL = 64
"""Steps of a prompt that enter the context at once, where it holds whole trajectories."""


class CachedPolicy:
    """The policy of envs/rollout.py for B chains that act in lockstep."""

    def __init__(
        self,
        weights: Weights,
        config: ModelConfig,
        scaling: Scaling,
        rules: ChainRules,
        *,
        keep: int,
        episode_length: int,
        chains: Sequence[int],
        seed: int = 0,
        prompt: Sequence[Trajectory] = (),
        ranked: bool = False,
    ) -> None:
        """
        Args:
          keep: steps of each past trajectory that stay in the context, 0 for all.
          chains: their numbers, one for each of the B chains.
          seed: draws, for a chain by its number, which steps stay.
          prompt: trajectories that are in the context of every chain before its first episode.
          ranked: whether the context is laid out anew before every episode, from the best of the prompt and of the
            chain's own episodes in order of return; else the latest are in it, as they were played.

        Raises:
          ValueError: the context has no room for the prompt and an episode, or for a trajectory of the prompt, or holds
            whole trajectories that are to be ranked.
        """
        if len(prompt) >= config.context and prompt:
            raise ValueError(
                f"prompt: expected fewer trajectories than the context's {config.context}, got {len(prompt)}"
            )
        if ranked and not keep:
            raise ValueError("ranked: expected a context of kept steps (--keep above 0), got one of whole trajectories")
        longest = max((len(trajectory.rewards) for trajectory in prompt), default=0)
        if not keep and longest > episode_length:
            raise ValueError(
                f"prompt: expected trajectories of at most {episode_length} steps, those of an episode, where all of "
                f"them stay in the context (--keep 0), got one of {longest}"
            )
        self._ranked = ranked
        self._weights, self._config = jax.device_put(transformer.unstack(weights)), config
        self._scaling, self._rules = scaling, rules
        self._slots = Slots.of(config, min(keep, episode_length), episode_length)
        self._chains, self._numbers, self._seed = len(chains), tuple(chains), seed
        attempts = [Attempt.of(trajectory) for trajectory in prompt]
        self._prompt = [attempts[i] for i in order(np.array([attempt.total for attempt in attempts]), rules)]
        self._action_size = weights.tokens.action.shape[0]
        self.reset()

    def reset(self) -> None:
        """Forget everything but the prompt: the next episode is the first of its chain."""
        self._empty()
        self._rngs = [np.random.default_rng((self._seed, number)) for number in self._numbers]
        self._best = [list(self._prompt) for _ in range(self._chains)]
        """Of each chain, the attempts that stay in a ranked context."""
        self._completed = np.zeros(self._chains, bool)
        """Whether the latest episode reached its target."""
        self._unread: np.ndarray | None = None
        """What the last action earned, where its tokens are not in the cache yet."""
        self._unread_real = np.zeros(self._chains, np.int32)
        self._played: list[list[Attempt]] = []
        self._observations: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[np.ndarray] = []

    def _empty(self) -> None:
        self._cache = transformer.empty_cache(self._config, self._chains, self._slots.total)
        self._positions, self._trajectory = np.zeros(self._chains, np.int32), -1

    def begin(self, target_return: float) -> None:
        """Start the next episode of every chain, asking for target_return in environment units."""
        if self._trajectory < 0 and self._prompt:
            self._recall([self._cut(self._prompt, target_return, rng) for rng in self._rngs])
            self._played = [[self._prompt[-1]] * self._chains]
            self._completed = self._completes(np.full(self._chains, self._prompt[-1].total), target_return)
        # Whole episodes are in the context as they were played, unless what they were asked for is to be told anew.
        if self._rewards and self._slots.trajs > 1 and (self._slots.keep or not self._rules.relabel):
            self._keep_finished()
        self._trajectory += 1
        self._timestep = 0
        self._target_return = target_return
        self._earned = np.zeros(self._chains)
        self._lengths = np.zeros(self._chains, np.int32)
        self._alive = np.ones(self._chains, bool)
        self._observations, self._actions, self._rewards = [], [], []

    def act(self, observations: np.ndarray) -> np.ndarray:
        """[B, O] -> [B, A], the action after everything seen so far; anything for a chain that waits."""
        first = self._timestep == 0
        inputs = np.empty((self._chains, 1 + observations.shape[1] + self._action_size + 2), np.float32)
        size = 1 + observations.shape[1]
        inputs[:, 0] = self._scaling.scale_returns(self._target_return - self._earned)
        inputs[:, 1:size] = self._scaling.scale_observations(observations)
        inputs[:, size:-2] = 0 if first else self._actions[-1]
        inputs[:, -2] = 0 if first else self._scaling.scale_rewards(self._rewards[-1])
        inputs[:, -1] = self._completed if first else 0
        if self._unread is not None and not self._slots.follows(self._timestep):
            self._read()
        fixed = self._weights, self._config, self._slots, self._cache
        real = self._alive * np.int32(self._slots.kinds - tokens.tokens_after_action(self._config.tokens))
        if self._unread is None:
            actions, self._cache = cached_steps.before_action(*fixed, inputs, self._clock(self._timestep, real))
        else:
            real += self._unread_real
            clock = self._clock(self._timestep, real)
            actions, self._cache = cached_steps.between_actions(*fixed, self._unread, inputs, clock)
            self._unread = None
        self._positions += real
        self._observations.append(observations.copy())
        self._actions.append(np.asarray(actions))
        return self._actions[-1]

    def observe(self, rewards: np.ndarray, last: np.ndarray) -> None:
        """[B]: what the actions earned, in environment units, and whether the episodes end with it.

        Entries of a chain whose episode has ended before are not read.
        """
        rewards = np.where(self._alive, rewards, 0.0).astype(np.float32)
        self._rewards.append(rewards)
        self._earned = self._earned + rewards
        ends = self._alive & last
        completes = ends & self._completes(self._earned, self._target_return)
        self._completed = np.where(self._timestep == 0, completes, self._completed | completes)
        if after := tokens.tokens_after_action(self._config.tokens):
            earned = self._scaling.scale_rewards(rewards)[:, None]
            self._unread = np.concatenate([self._actions[-1], earned, completes[:, None]], axis=1, dtype=np.float32)
            self._unread_real = self._alive * np.int32(after)
        self._lengths += self._alive
        self._alive = self._alive & ~ends
        self._timestep += 1
        if not self._alive.any() and self._unread is not None:
            self._read()

    def _read(self) -> None:
        """Write the tokens of the last action and of what it earned into the cache."""
        fixed = self._weights, self._config, self._slots, self._cache
        self._cache = cached_steps.after_action(
            *fixed, self._unread, self._clock(self._timestep - 1, self._unread_real)
        )
        self._positions += self._unread_real
        self._unread = None

    def _clock(self, timestep: int, real: np.ndarray) -> Clock:
        arrays: list[Any] = [np.asarray(n, np.int32) for n in (self._trajectory, timestep, self._positions, real)]
        return Clock(*(array.copy() for array in arrays))

    def _completes(self, returns: np.ndarray, target_return: float) -> np.ndarray:
        """[B] -> [B] bool: whether episodes of these returns are flagged, asked for target_return."""
        return completed(returns, np.full(self._chains, target_return), self._rules)

    def _cut(self, attempts: Sequence[Attempt], target_return: float, rng: np.random.Generator) -> Steps:
        """Attempts in order, as the context holds them."""
        return cut_past(attempts, self._rules, self._slots.keep, target_return, rng).scaled(self._scaling)

    def _recall(self, pasts: Sequence[Steps]) -> None:
        """Fill the empty context of each chain with its past, of as many attempts as any other's."""
        for number in range(1 + int(pasts[0].trajectories[-1])):
            self._trajectory = number
            self._write([_part(past, past.trajectories == number) for past in pasts])

    def _recall_best(self, attempts: Sequence[Attempt]) -> None:
        """Lay the context out anew, with what each chain has just played among its best."""
        for best, attempt in zip(self._best, attempts, strict=True):
            best[:] = sorted([*best, attempt], key=lambda each: each.total)[1 - self._config.context :]
        self._empty()
        self._recall(
            [self._cut(best, self._target_return, rng) for best, rng in zip(self._best, self._rngs, strict=True)]
        )
        latest = np.array([best[-1].total for best in self._best])
        self._completed = self._completes(latest, self._target_return)

    def _keep_finished(self) -> None:
        """Cut the episodes just played as the training chains cut theirs, and append them to the context."""
        arrays = (np.stack(each, 1) for each in (self._observations, self._actions, self._rewards))
        attempts = [
            Attempt.of(Trajectory(*(each[:length] for each in of_chain)))
            for length, *of_chain in zip(self._lengths, *arrays, strict=True)
        ]
        if self._ranked:
            self._recall_best(attempts)
            return
        self._played = [*self._played[-1:], attempts]
        cuts = []
        for chain, rng in zip(zip(*self._played, strict=True), self._rngs, strict=True):
            steps = self._cut(chain, self._target_return, rng)
            cuts.append(_part(steps, steps.trajectories == len(chain) - 1))
        self._positions -= self._lengths * np.int32(self._slots.kinds)
        if self._slots.keep:
            self._cache = cached_steps.empty_ring(self._slots, self._cache)
        self._write(cuts)

    def _write(self, cuts: list[Steps]) -> None:
        """Append to each chain what is kept of a trajectory, its latest."""
        if self._slots.keep:
            self._add(cuts, self._slots.keep, self._slots.of_kept(self._trajectory))
            return
        longest = max(len(steps.timesteps) for steps in cuts)
        for first in range(0, longest, PREFILL):
            room = min(PREFILL, longest - first)  # what is written beyond it could be of another trajectory
            some = [_part(steps, slice(first, first + room)) for steps in cuts]
            self._add(some, room, self._slots.of_step(self._trajectory, first))

    def _add(self, cuts: list[Steps], room: int, slot: int) -> None:
        """Append to each chain its steps, at most `room` of them, in slots that have place for as many."""

        def padded(values: np.ndarray) -> np.ndarray:
            return np.pad(values, [(0, room - len(values))] + [(0, 0)] * (values.ndim - 1))

        inputs: dict[str, Any] = {
            name: np.stack([padded(getattr(cut, name)) for cut in cuts]) for name in tokens.StepInputs._fields
        }
        real = np.array([len(cut.timesteps) for cut in cuts], np.int32) * np.int32(self._slots.kinds)
        fixed = self._weights, self._config, self._cache, tokens.StepInputs(**inputs)
        self._cache = cached_steps.append(*fixed, self._clock(0, real), np.int32(slot))
        self._positions += real


def _part(steps: Steps, which: np.ndarray | slice) -> Steps:
    return Steps(*(values[which] for values in steps))
