"""Segments: a few steps in a row of many episodes, labelled with the rewards of a task of a family.

Whatever task an episode was played for, each of its steps has a reward under every task of the family, computed from a
few features of the state. Axes as in agent/__init__.py, with N segments of S steps. Rewards lie in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

SHOW_REWARDS = ("none", "past", "all")
CANDIDATES = 12
"""Segments that a chosen one is the best of."""
SINCE, UNTIL, SETTLED = 8, 4, 12
"""Steps around its start that say what a segment achieves at first; after SETTLED, what it has come to."""
BEGINNINGS, BEGINNING_STEPS = 0.06, 40
"""Share of segments that start within so many steps of the reset: getting up must be learned too."""


class Tasks(Protocol):
    """What has to be known of a family of tasks; envs.family.Family is one."""

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray: ...
    def rewards(self, features: np.ndarray, tasks: np.ndarray) -> np.ndarray: ...
    def errors(self, features: np.ndarray, tasks: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class SegmentRules:
    """How segments are cut and what they show, where a run learns a family of tasks."""

    segment: int = field(default=16, metadata={"help": "Family of tasks: steps in a row of every segment of a chain."})
    horizon: int = field(
        default=40, metadata={"help": "Family of tasks: steps whose mean reward is what a step is asked for."}
    )
    prior: float = field(
        default=0.5,
        metadata={
            "help": "Family of tasks: share of training segments chosen, out of a few, for coming near the task, or "
            "being there."
        },
    )
    show_rewards: str = field(
        default="past",
        metadata={
            "help": "Family of tasks: whose steps show the reward of the step before. none: nobody's; past: those of "
            "the context, not those of the running episode (in training, a random share of the segments); all.",
            "choices": SHOW_REWARDS,
        },
    )
    tell: bool = field(
        default=False, metadata={"help": "Family of tasks: tell the task with every observation, as a control."}
    )

    def __post_init__(self) -> None:
        if self.segment < 1 or self.horizon < 1:
            raise ValueError(f"--segment, --horizon: expected 1 or more, got {self.segment}, {self.horizon}")
        if not 0 <= self.prior <= 1:
            raise ValueError(f"--prior: expected a share from 0 to 1, got {self.prior}")
        if self.show_rewards not in SHOW_REWARDS:
            raise ValueError(f"--show_rewards: expected one of {', '.join(SHOW_REWARDS)}, got {self.show_rewards!r}")

    @property
    def needed(self) -> int:
        """Steps that an episode must have, for a segment and the horizon behind its last step."""
        return self.segment + self.horizon - 1


class Featured(NamedTuple):
    """A trajectory, and what its rewards are computed from."""

    observations: np.ndarray
    """[T, O]."""
    actions: np.ndarray
    """[T, A]."""
    rewards: np.ndarray
    """[T]: the posture, which every task rewards."""
    features: np.ndarray
    """[T, G + 1]: row t of the state after action t; the last column is the posture, in [0, 1]."""

    @property
    def total(self) -> float:
        """The sum of the rewards."""
        return float(np.sum(self.rewards, dtype=np.float64))


class Segments(NamedTuple):
    """Segments of B chains, N each, unscaled and in no order."""

    observations: np.ndarray
    """[B, N, S, O]."""
    actions: np.ndarray
    """[B, N, S, A]."""
    rewards: np.ndarray
    """[B, N, S + horizon]: entry j is the reward of the step j - 1 of the segment, so the first came before it."""
    first: np.ndarray
    """[B, N]: whether it starts with the episode, and nothing came before."""

    def rates(self, horizon: int) -> np.ndarray:
        """[B, N, S]: the mean reward over the next `horizon` steps, from each step on."""
        sums = np.cumsum(self.rewards, axis=-1, dtype=np.float64)
        return (sums[..., horizon:] - sums[..., :-horizon]) / horizon


class Episodes:
    """Episodes to cut segments from, by what they achieve."""

    def __init__(self, trajectories: Sequence[Featured], rules: SegmentRules) -> None:
        """Raises ValueError when there are none, or one is too short."""
        if not trajectories:
            raise ValueError("trajectories: expected at least one to cut segments from, got none")
        self._trajectories, self.rules = trajectories, rules
        self._lengths = np.array([len(trajectory.rewards) for trajectory in trajectories])
        if self._lengths.min() < rules.needed:
            raise ValueError(
                f"--segment, --horizon: expected episodes of {rules.needed} steps or more, got one of "
                f"{self._lengths.min()}"
            )
        # Sums of all features before each step, one episode after another: means of any stretch in two look-ups.
        self._sums = np.concatenate(
            [np.cumsum(np.pad(t.features, ((1, 0), (0, 0))), axis=0, dtype=np.float64) for t in trajectories]
        )
        self._offsets = np.concatenate(([0], np.cumsum(self._lengths + 1)[:-1]))

    def cut(self, episode: np.ndarray, start: np.ndarray, tasks: np.ndarray, family: Tasks) -> Segments:
        """Segments that begin at the steps [B, N] of the episodes [B, N], labelled with the tasks [B, G]."""
        steps, horizon = self.rules.segment, self.rules.horizon
        places = list(zip(episode.ravel(), start.ravel(), strict=True))
        shown = [self._trajectories[e] for e, _ in places]
        shape = episode.shape
        observations = np.stack([t.observations[s : s + steps] for t, (_, s) in zip(shown, places, strict=True)])
        actions = np.stack([t.actions[s : s + steps] for t, (_, s) in zip(shown, places, strict=True)])
        # At step 0 there is no state before: its own stands in, and is blanked below.
        around = [
            self._trajectories[e].features[np.maximum(np.arange(s - 1, s + steps + horizon - 1), 0)] for e, s in places
        ]
        features = np.stack(around).reshape(*shape, steps + horizon, -1)
        rewards = family.rewards(features, tasks[:, None, None])
        rewards[start == 0, 0] = 0
        return Segments(
            observations.reshape(*shape, *observations.shape[1:]),
            actions.reshape(*shape, *actions.shape[1:]),
            rewards,
            start == 0,
        )

    def draw(
        self, rng: np.random.Generator, tasks: np.ndarray, count: int, family: Tasks, prior: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Episodes and steps to cut at, [B, N]: N for each task [B, G], a share `prior` chosen for leading to it."""
        episode, start = self._starts(rng, (len(tasks), count))
        beginning = rng.random(episode.shape) < BEGINNINGS
        start = np.where(beginning, rng.integers(0, BEGINNING_STEPS, episode.shape), start)
        start = np.minimum(start, self._lengths[episode] - self.rules.needed)
        if prior:
            best = self._best(rng, tasks, count, family)
            chosen = (rng.random(episode.shape) < prior) & ~beginning
            episode, start = np.where(chosen, best, (episode, start))
        return episode, start

    def achieved(self, episode: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """[...] three times -> [..., F]: mean features over the steps first to last - 1, cut to the episode."""
        length = self._lengths[episode]
        first = np.clip(first, 0, length - 1)
        last = np.clip(last, first + 1, length)
        at = self._offsets[episode]
        return (self._sums[at + last] - self._sums[at + first]) / (last - first)[..., None]

    def _starts(self, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Episodes and steps, drawn evenly."""
        episode = rng.integers(0, len(self._lengths), shape)
        return episode, rng.integers(0, self._lengths[episode] - self.rules.needed + 1)

    def _best(self, rng: np.random.Generator, tasks: np.ndarray, count: int, family: Tasks) -> np.ndarray:
        """[2, B, N]: episodes and steps, each the best of some: mostly one that leaves another task for its own.

        Else what is near the task would mostly stay there, and the state alone would tell the action.
        """
        episode, start = self._starts(rng, (len(tasks), count, CANDIDATES))
        wanted = tasks[:, None, None]
        later = self.achieved(episode, start + SETTLED, start + self.rules.horizon)
        now = self.achieved(episode, start - SINCE, start + UNTIL)
        posture = self.achieved(episode, start, start + self.rules.horizon)[..., -1]
        after, before = (family.errors(mean, wanted).mean(-1) for mean in (later, now))
        leads = rng.random((len(tasks), count, 1)) < 0.7
        score = np.where(leads, np.minimum(before, 2) - 2 * after, -after) - 4 * (1 - posture)
        best = np.argmax(score, axis=-1)[..., None]
        return np.stack([np.take_along_axis(each, best, -1)[..., 0] for each in (episode, start)])


def cut_own(
    rng: np.random.Generator,
    played: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    count: int,
    rules: SegmentRules,
) -> Segments:
    """`count` segments of B chains' own episodes: observations [B, T, O], actions [B, T, A] and rewards [B, T] of each.

    The latest episodes share them evenly; each gives one from its beginning, where the most different states are.
    """
    latest = played[-count:]
    chains, steps, horizon = len(latest[0][2]), rules.segment, rules.horizon
    parts = []
    for number, (observations, actions, rewards) in enumerate(latest):
        share = count // len(latest) + (number >= len(latest) - count % len(latest))
        last = rewards.shape[1] - rules.needed
        start = rng.integers(0, last + 1, (chains, share))
        start[:, 0] = np.minimum(start[:, 0], min(10 + int(rng.integers(20)), last))
        at = start[..., None] + np.arange(steps)
        chain = np.arange(chains)[:, None, None]
        around = start[..., None] + np.arange(-1, steps + horizon - 1)
        earned = rewards[chain, np.maximum(around, 0)] * (around >= 0)
        parts.append(Segments(observations[chain, at], actions[chain, at], earned.astype(np.float32), start == 0))
    return Segments(*(np.concatenate(values, axis=1) for values in zip(*parts, strict=True)))
