"""What an explorer remembers: whole episodes in, minibatches of n-step transitions out. NumPy only."""

from typing import Any, NamedTuple

import numpy as np

Array = Any
"""NumPy's when sampled, jax's when learned from."""


class Transitions(NamedTuple):
    """n-step transitions; `...` are the axes that `Replay.sample` was asked for."""

    observations: Array
    """[..., O]."""
    actions: Array
    """[..., A]: the first action of the n."""
    rewards: Array
    """[...]: the sum of the n rewards, discounted."""
    discounts: Array
    """[...]: discount ** n, for the value of the observation n steps on."""
    next_observations: Array
    """[..., O]: n steps on, or the last of the episode, whichever comes first."""


class Replay:
    """The last `capacity` episodes, each of `episode_length` steps, truncated and never terminated."""

    def __init__(self, capacity: int, episode_length: int, observation_size: int, action_size: int):
        self._observations = np.zeros((capacity, episode_length + 1, observation_size), np.float32)
        self._actions = np.zeros((capacity, episode_length, action_size), np.float32)
        self._rewards = np.zeros((capacity, episode_length), np.float32)
        self.episodes = 0
        """How many were ever added."""

    def add(self, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Take in an episode: [T+1, O], [T, A], [T]. The oldest makes room when the memory is full."""
        slot = self.episodes % len(self._actions)
        self._observations[slot] = observations
        self._actions[slot] = actions
        self._rewards[slot] = rewards
        self.episodes += 1

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [O] of the observations remembered."""
        observations = self._observations[: self.episodes].reshape(-1, self._observations.shape[-1])
        return observations.mean(0), observations.std(0)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...], n_step: int, discount: float) -> Transitions:
        """Transitions drawn evenly from all steps remembered, with leading axes `shape`."""
        length = self._actions.shape[1]
        episode = rng.integers(0, min(self.episodes, len(self._actions)), shape)
        start = rng.integers(0, length, shape)
        steps = start[..., None] + np.arange(n_step)
        earned = self._rewards[episode[..., None], np.minimum(steps, length - 1)]
        rewards, discounts = discounted(earned, steps < length, discount)
        stop = np.minimum(start + n_step, length)
        return Transitions(
            self._observations[episode, start],
            self._actions[episode, start],
            rewards,
            discounts,
            self._observations[episode, stop],
        )


def discounted(earned: np.ndarray, inside: np.ndarray, discount: float) -> tuple[np.ndarray, np.ndarray]:
    """The discounted sum [...] of the rewards [..., n] that lie `inside`, and the discount [...] after them.

    One after the other: a product of BLAS ends otherwise on each kind of CPU.
    """
    rewards, discounts = np.zeros(earned.shape[:-1], np.float32), np.ones(earned.shape[:-1], np.float32)
    for step in range(earned.shape[-1]):
        rewards += np.where(inside[..., step], discounts * earned[..., step], 0)
        discounts = np.where(inside[..., step], discounts * np.float32(discount), discounts)
    return rewards, discounts
