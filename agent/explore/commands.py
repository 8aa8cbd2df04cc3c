"""TD3 that obeys commands: one agent for every task of a family, which then roams between them for data.

It learns from whole episodes under one command each. The reward of a transition is computed when it is sampled, for a
command drawn anew, so that every step teaches all tasks. What is kept are episodes played afterwards, in which the
command changes every few steps; the command itself is thrown away.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from agent import explore
from agent.explore.config import ExploreConfig
from agent.explore.replay import Replay, Transitions, discounted

COMMAND_RANGE = 3.2
"""What the ends of a command's range become as inputs: commands speak louder than the standardised observations."""


class Tasks(Protocol):
    """What the agent has to know of a family; envs.family.Family is one."""

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray: ...
    def rewards(self, features: np.ndarray, tasks: np.ndarray, widen: float) -> np.ndarray: ...


@dataclass(frozen=True)
class CommandConfig:
    """How the agent learns, and how it roams."""

    practice: int = 240
    """Episodes to learn from before those that are kept; nothing is learned afterwards."""
    posture: int = 25
    """The first of them, that teach nothing but to hold the body: a walker that is to move at once learns to crawl."""
    wide: int = 150
    """The first of them, in which the reward's margins are `widen` times as wide: from far off it is flat."""
    widen: float = 4.0
    narrow: float = 1.5
    """And in the others: where a reward reaches far, standing still is good enough for every slow command."""
    shortest: int = 10
    """Steps under one command, at least, in the episodes that are kept."""
    longest: int = 60
    """Steps under one command, at most."""
    noises: tuple[float, ...] = (0.0, 0.1, 0.3)
    """Standard deviation of the noise on actions: one of these for each episode that is kept."""
    td3: ExploreConfig = field(default_factory=lambda: ExploreConfig(discount=0.98, noise_episodes=15))

    def origin(self) -> dict[str, Any]:
        """As JSON stores it."""
        return asdict(self) | {"noises": list(self.noises)}


class CommandReplay(Replay):
    """A replay whose observations end in a command, drawn anew with every transition that is sampled."""

    def __init__(
        self, capacity: int, episode_length: int, sizes: tuple[int, int, int], tasks: Tasks, config: CommandConfig
    ) -> None:
        """sizes: of observations, actions and features."""
        super().__init__(capacity, episode_length, *sizes[:2])
        self._features = np.zeros((capacity, episode_length, sizes[2]), np.float32)
        self._tasks, self._config = tasks, config
        self._shift, self._scale = command_scaling(tasks)

    def add(self, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Take in an episode: [T+1, O], [T, A], and the features [T, F] that rewards are computed from."""
        self._features[self.episodes % len(self._features)] = rewards
        super().add(observations, actions, np.zeros(len(rewards), np.float32))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [O + G], the command's such that its range becomes COMMAND_RANGE."""
        mean, deviation = super().moments()
        return np.concatenate((mean, self._shift)), np.concatenate((deviation, self._scale))

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...], n_step: int, discount: float) -> Transitions:
        """Transitions drawn evenly from all steps remembered, each under a command of its own."""
        length = self._actions.shape[1]
        episode = rng.integers(0, min(self.episodes, len(self._actions)), shape)
        start = rng.integers(0, length, shape)
        commands = self._tasks.draw(rng, int(np.prod(shape))).reshape(*shape, -1)
        steps = start[..., None] + np.arange(n_step)
        features = self._features[episode[..., None], np.minimum(steps, length - 1)]
        earned = features[..., -1]
        if self.episodes > self._config.posture:
            widen = self._config.widen if self.episodes <= self._config.wide else self._config.narrow
            earned = self._tasks.rewards(features, commands[..., None, :], widen)
        rewards, discounts = discounted(earned, steps < length, discount)
        stop = np.minimum(start + n_step, length)
        return Transitions(
            np.concatenate((self._observations[episode, start], commands), -1),
            self._actions[episode, start],
            rewards,
            discounts,
            np.concatenate((self._observations[episode, stop], commands), -1),
        )


def command_scaling(tasks: Tasks) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the tasks on each axis, and what they are divided by: [G], [G] float32."""
    drawn = tasks.draw(np.random.default_rng(0), 4096)
    low, high = drawn.min(0), drawn.max(0)
    return (low + high) / 2, (high - low) / 2 / np.float32(COMMAND_RANGE)


def policy(
    explorer: "explore.Explorer",
    episode: int,
    action_size: int,
    rng: np.random.Generator,
    config: CommandConfig,
    tasks: Tasks,
) -> Callable[[np.ndarray], np.ndarray]:
    """How the agent acts in an episode, counted from 0: observation [O] -> action [A] in [-1, 1]."""
    practising = episode < config.practice
    td3 = config.td3
    if not practising:
        noise = float(rng.choice(config.noises))
        td3 = replace(td3, first_noise=noise, last_noise=noise)
    obey = explore.policy(explorer, episode, action_size, rng, td3)
    command, left = tasks.draw(rng, 1)[0], 0 if practising else int(rng.integers(config.shortest, config.longest + 1))

    def act(observation: np.ndarray) -> np.ndarray:
        nonlocal command, left
        left -= 1
        if left == 0:
            command, left = tasks.draw(rng, 1)[0], int(rng.integers(config.shortest, config.longest + 1))
        return obey(np.concatenate((observation, command)))

    return act
