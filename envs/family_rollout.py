"""Tasks of a family, played: many at once in lockstep, one episode after another."""

from typing import NamedTuple, Protocol

import numpy as np

import envs
from envs.dmc import ControlSuite
from envs.family import Family

SETTLED = 4
"""What an episode achieves is the mean after this part of it: the first quarter goes into getting there."""


class Actor(Protocol):
    """What a rollout needs of a policy that plays B tasks."""

    def begin(self) -> None:
        """Start the next episode of every task."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        """[B, O] float32 -> actions [B, A] float32 in [-1, 1]."""

    def observe(self, rewards: np.ndarray) -> None:
        """[B] float32: what the actions earned."""


class Played(NamedTuple):
    """Entry [b, e] is episode e of task b."""

    returns: np.ndarray
    """[B, episodes]: scaled to 1,000 steps, so that the best there is is 1,000."""
    achieved: np.ndarray
    """[B, episodes, G + 1]: mean features, once settled."""


def play(family: Family, tasks: np.ndarray, seeds: np.ndarray, actor: Actor, episodes: int) -> Played:
    """Play `episodes` episodes of each task [B, G], the initial state from seeds [B], the same for every episode."""
    suites = [ControlSuite(envs.spec(family.start)) for _ in tasks]
    length = suites[0].size.episode_length
    returns = np.zeros((len(tasks), episodes))
    achieved = np.zeros((len(tasks), episodes, len(family.axes) + 1))
    for episode in range(episodes):
        actor.begin()
        observations = np.stack([suite.reset(seed=int(seed))[0] for suite, seed in zip(suites, seeds, strict=True)])
        for step in range(length):
            actions = actor.act(observations)
            for lane, suite in enumerate(suites):
                observations[lane] = suite.step(actions[lane])[0]
            features = family.read(np.stack([suite.physics_state() for suite in suites]))
            rewards = family.rewards(features, tasks)
            actor.observe(rewards)
            returns[:, episode] += rewards * (1000 / length)
            if step >= length // SETTLED:
                achieved[:, episode] += features / (length - length // SETTLED)
    return Played(returns, achieved)
