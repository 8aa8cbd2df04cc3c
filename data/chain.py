"""Chain of hindsight (Liu & Abbeel, arXiv 2305.16554, Algorithm 1): ordered attempts, asked for the best.

Pure functions, in environment units. The context rule, how much of an attempt a chain shows, is the same at
training (`excerpt`) and at rollout (`cut_past`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data.scaling import Scaling
from data.trajectory import Trajectory

TOLERANCE = 1e-5
"""What a return may lack and still reach its target, relative to targets above 1: rounding of float32."""

LOSSES = ("last", "all", "mixed")
DRAWS = ("powers", "uniform", "full")
PAST_WEIGHT = 0.25


@dataclass(frozen=True)
class ChainRules:
    """The rules of the chain of hindsight; each can be switched off to see what it is worth."""

    sort: bool = field(default=True, metadata={"help": "Order the trajectories of a chain by return, the best last."})
    relabel: bool = field(
        default=True,
        metadata={"help": "Ask every trajectory of a chain for the chain's best return, not for its own."},
    )
    completion: bool = field(
        default=False,
        metadata={
            "help": "Flag the last step of a trajectory that reaches its target return. Off: in a sorted chain that is "
            "the very last step, which nothing follows, so that nothing is learned from the flag but where returns tie."
        },
    )
    loss: str = field(
        default="last",
        metadata={
            "help": "Which actions are learned: of the last trajectory of a chain, of all, or mixed: of all, those of "
            f"past ones at {PAST_WEIGHT:g} of the weight. Presets take all, of reward-free data such as rnd the last.",
            "choices": LOSSES,
        },
    )
    draw: str = field(
        default="powers",
        metadata={
            "help": "How many trajectories a training chain has. powers: 1, 2, 4, ... or --trajs; uniform: 1 to "
            "--trajs; full: --trajs.",
            "choices": DRAWS,
        },
    )

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"--loss: expected one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.draw not in DRAWS:
            raise ValueError(f"--draw: expected one of {', '.join(DRAWS)}, got {self.draw!r}")

    @property
    def past_weight(self) -> float:
        """Of an action of a past trajectory in the loss, where one of the last trajectory counts 1."""
        return {"last": 0.0, "mixed": PAST_WEIGHT, "all": 1.0}[self.loss]


class Attempt(NamedTuple):
    """A trajectory and what had been earned when: computed once, used in many chains."""

    trajectory: Trajectory
    earned: np.ndarray
    """[T+1] float64: the rewards before each step; the last entry is the return."""

    @classmethod
    def of(cls, trajectory: Trajectory) -> "Attempt":
        earned = np.zeros(len(trajectory.rewards) + 1)
        np.cumsum(trajectory.rewards, dtype=np.float64, out=earned[1:])
        return cls(trajectory, earned)

    @property
    def total(self) -> float:
        """The return."""
        return float(self.earned[-1])

    @property
    def length(self) -> int:
        """The number of steps T."""
        return len(self.earned) - 1


class Steps(NamedTuple):
    """The steps that chains show of their attempts, one after another: the fields of a `Batch` row.

    S is the number of steps in all.
    """

    observations: np.ndarray
    """[S, O]."""
    actions: np.ndarray
    """[S, A]."""
    rewards: np.ndarray
    """[S]."""
    completions: np.ndarray
    """[S]."""
    target_returns: np.ndarray
    """[S]."""
    previous_actions: np.ndarray
    """[S, A]: of the true step before, also where that step is not shown."""
    previous_rewards: np.ndarray
    """[S]."""
    previous_completions: np.ndarray
    """[S]."""
    timesteps: np.ndarray
    """[S] int."""
    trajectories: np.ndarray
    """[S] int."""
    loss_weights: np.ndarray
    """[S]."""

    def scaled(self, scaling: Scaling) -> "Steps":
        """As the network sees them."""
        return self._replace(
            observations=scaling.scale_observations(self.observations),
            rewards=scaling.scale_rewards(self.rewards),
            previous_rewards=scaling.scale_rewards(self.previous_rewards),
            target_returns=scaling.scale_returns(self.target_returns),
        )


def order(returns: np.ndarray, rules: ChainRules) -> np.ndarray:
    """[N] -> [N] indices: ascending by return, equal ones as they came; as drawn when `sort` is off."""
    return np.argsort(returns, kind="stable") if rules.sort else np.arange(len(returns))


def reached(returns: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[N], [N] -> [N] bool: whether each return is its target or more, within TOLERANCE."""
    return returns >= targets - TOLERANCE * np.maximum(1.0, np.abs(targets))


def completed(returns: np.ndarray, targets: np.ndarray, rules: ChainRules) -> np.ndarray:
    """[N], [N]: of finished trajectories, what chains are asked for -> [N] bool: whose last steps are flagged.

    Without `relabel` each is asked for its own return, and reaches it.
    """
    return reached(returns, targets if rules.relabel else returns) & rules.completion


def kept_steps(length: int, keep: int, rng: np.random.Generator) -> np.ndarray:
    """The steps shown of a past attempt, increasing: all when `keep` is 0, else [keep].

    One from each of `keep` equal parts of the attempt, all at one random phase: fixed steps would be learned
    by heart. In whole numbers, so no phase falls off the end. Draws nothing when every step is shown.
    """
    if shown(length, keep) == length:
        return np.arange(length)
    return (np.arange(keep) * length + rng.integers(length)) // keep


def cropped_steps(length: int, crop: int, rng: np.random.Generator) -> np.ndarray:
    """The steps shown of the current attempt: all when `crop` is 0, else [crop] in a row.

    The start is uniform over [-(crop // 2), length - crop] and clipped at 0: beginnings are shown more often,
    for getting up from the reset decides the return. Draws nothing when every step is shown.
    """
    if shown(length, crop) == length:
        return np.arange(length)
    start = max(0, int(rng.integers(-(crop // 2), length - crop + 1)))
    return np.arange(start, start + crop)


def shown(length: int, most: int) -> int:
    """How many steps of an attempt a chain shows when it may show `most`; 0 is all."""
    return min(length, most) if most else length


class Excerpt(NamedTuple):
    """What a chain shows of its attempts, all per attempt, [N], in order."""

    attempts: Sequence[Attempt]
    kept: Sequence[np.ndarray]
    """The steps shown of each, increasing."""
    targets: np.ndarray
    """[N]: the returns asked for."""
    weights: np.ndarray
    """[N]: of their actions in the loss."""


def excerpt(attempts: Sequence[Attempt], rules: ChainRules, keep: int, crop: int, rng: np.random.Generator) -> Excerpt:
    """Of a chain to learn from: attempts already in order, `keep` steps of each past one, `crop` of the last."""
    totals = np.array([attempt.total for attempt in attempts])
    kept = [kept_steps(attempt.length, keep, rng) for attempt in attempts[:-1]]
    kept.append(cropped_steps(attempts[-1].length, crop, rng))
    weights = np.full(len(attempts), rules.past_weight)
    weights[-1] = 1
    targets = np.full_like(totals, totals.max()) if rules.relabel else totals
    return Excerpt(attempts, kept, targets, weights)


def cut_past(
    attempts: Sequence[Attempt], rules: ChainRules, keep: int, target_return: float, rng: np.random.Generator
) -> Steps:
    """The context of the next episode: finished attempts, one or more, already in order, as in `excerpt`.

    `target_return` is what the chain is asked for; without `relabel` each keeps its own return.
    """
    totals = np.array([attempt.total for attempt in attempts])
    kept = [kept_steps(attempt.length, keep, rng) for attempt in attempts]
    targets = np.full_like(totals, target_return) if rules.relabel else totals
    weights = np.full(len(attempts), rules.past_weight)
    return cut([Excerpt(attempts, kept, targets, weights)], rules)


def cut(excerpts: Sequence[Excerpt], rules: ChainRules) -> Steps:
    """The steps of one chain or more, one chain after another: of all at once, for a batch may have thousands."""
    attempts = [attempt for each in excerpts for attempt in each.attempts]
    kept = [steps for each in excerpts for steps in each.kept]
    pairs = list(zip(attempts, kept, strict=True))
    index = np.repeat(np.arange(len(attempts)), [len(steps) for steps in kept])
    in_chain = _joined([np.arange(len(each.attempts)) for each in excerpts])[index]
    targets = _joined([each.targets for each in excerpts])
    flags = completed(np.array([attempt.total for attempt in attempts]), targets, rules)
    timesteps = _joined(kept)
    first = timesteps == 0
    last = timesteps == np.array([attempt.length for attempt in attempts])[index] - 1
    # At step 0 the index is -1: the last row, blanked below.
    previous_actions = _joined([a.trajectory.actions[steps - 1] for a, steps in pairs])
    previous_rewards = _joined([a.trajectory.rewards[steps - 1] for a, steps in pairs])
    previous_actions[first] = 0
    previous_rewards[first] = 0
    return Steps(
        observations=_joined([a.trajectory.observations[steps] for a, steps in pairs]),
        actions=_joined([a.trajectory.actions[steps] for a, steps in pairs]),
        rewards=_joined([a.trajectory.rewards[steps] for a, steps in pairs]),
        completions=last & flags[index],
        target_returns=targets[index] - _joined([a.earned[steps] for a, steps in pairs]),
        previous_actions=previous_actions,
        previous_rewards=previous_rewards,
        previous_completions=first & (in_chain > 0) & flags[index - 1],
        timesteps=timesteps,
        trajectories=in_chain,
        loss_weights=_joined([each.weights for each in excerpts])[index],
    )


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One after another; a single one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
