"""Chains of segments: one data set under many tasks, and the task told by nothing but the rewards in the chain.

A chain draws a task, cuts segments out of many random episodes, and labels them. What is asked for at a step is a rate,
the mean reward over the next `horizon` steps: unlike a return-to-go it need not fall while an episode runs, so that a
rollout asks for the same at every step. Nothing else that could tell the task or the time stands in a token: no
previous action, no timestep, and the previous reward only where `show_rewards` says so.
"""

import numpy as np

from data.chain import ChainRules
from data.scaling import Scaling
from data.segments import Episodes, SegmentRules, Segments, Tasks
from data.trajectory import Batch

TOLD = 1.5
"""What the ends of a task's range become as inputs, where the task is told."""


def scale_rate(rate: np.ndarray) -> np.ndarray:
    """A rate in [0, 1] as the network sees it."""
    return (rate - 0.6) * 4


def scale_shown(rewards: np.ndarray) -> np.ndarray:
    """A reward in [0, 1] as the network sees it; never 0, which stands for one that is not shown."""
    return 0.5 + 2 * rewards


class Telling:
    """Observations as the network sees them: scaled, and with the task behind them where it is told."""

    def __init__(self, scaling: Scaling, rules: SegmentRules, low: np.ndarray, high: np.ndarray) -> None:
        """low, high: [G], the ends of the tasks' ranges."""
        self._scaling, self._tell = scaling, rules.tell
        self._middle, self._half = (low + high) / 2, (high - low) / 2 / TOLD

    def __call__(self, observations: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """[B, ..., O], [B, G] -> [B, ..., O], or [B, ..., O + G]."""
        scaled = self._scaling.scale_observations(observations)
        if not self._tell:
            return scaled
        told = ((tasks - self._middle) / self._half).astype(np.float32)
        told = told.reshape(len(tasks), *(1,) * (observations.ndim - 2), -1)
        return np.concatenate((scaled, np.broadcast_to(told, (*scaled.shape[:-1], told.shape[-1]))), axis=-1)


def chains(
    segments: Segments, scaled: np.ndarray, shown: np.ndarray, chain_rules: ChainRules, rules: SegmentRules
) -> Batch:
    """Segments as rows of one chain each, [B, N * S]: in the order of their first rates, or as they come.

    scaled: observations as the network sees them, [B, N, S, ...]. shown: [B, N], whether a segment shows rewards.
    """
    rates = segments.rates(rules.horizon)
    count, steps = rates.shape[1:]
    order = np.argsort(rates[..., 0], axis=1, kind="stable") if chain_rules.sort else np.arange(count)[None]
    asked = np.broadcast_to(rates[..., 0].max(1)[:, None, None], rates.shape) if chain_rules.relabel else rates
    known = np.broadcast_to(shown[..., None], rates.shape).copy()
    known[..., 0] &= ~segments.first
    previous = np.where(known, scale_shown(segments.rewards[..., :steps]), 0)
    learned = np.full_like(rates, chain_rules.past_weight)
    learned[:, -1] = 1
    index = np.broadcast_to(np.arange(count)[None, :, None], rates.shape)

    def row(values: np.ndarray, ordered: bool = True, dtype: type = np.float32) -> np.ndarray:
        if ordered:
            values = np.take_along_axis(values, order.reshape(*order.shape, *(1,) * (values.ndim - 2)), axis=1)
        return np.ascontiguousarray(values.reshape(len(values), count * steps, *values.shape[3:]), dtype)

    actions = row(segments.actions)
    nothing = np.zeros(actions.shape[:2], np.float32)
    return Batch(
        observations=row(scaled),
        actions=actions,
        rewards=row(segments.rewards[..., 1 : steps + 1]),
        completions=nothing,
        target_returns=row(scale_rate(asked)),
        previous_actions=np.zeros_like(actions),
        previous_rewards=row(previous),
        previous_completions=nothing,
        timesteps=np.zeros(nothing.shape, np.int32),
        trajectories=row(index, ordered=False, dtype=np.int32),
        chains=np.ones(nothing.shape, np.int32),
        loss_weights=row(learned, ordered=False),
    )


class SegmentSampler:
    """Batches of chains of segments: batch(step) is a pure function of seed and step."""

    def __init__(
        self,
        episodes: Episodes,
        family: Tasks,
        telling: Telling,
        chain_rules: ChainRules,
        segments: int,
        rows: int,
        seed: int,
    ) -> None:
        """segments: N of every chain. Raises ValueError when a number is out of range."""
        if segments < 1 or rows < 1:
            raise ValueError(f"--trajs, --rows: expected 1 or more, got {segments}, {rows}")
        self._episodes, self._family, self._telling, self._chain_rules = episodes, family, telling, chain_rules
        self._segments, self._rows, self._seed = segments, rows, seed
        self.steps_per_row = segments * episodes.rules.segment

    def batch(self, step: int) -> Batch:
        """The batch [B, N * S] of an update, scaled."""
        rng, rules = np.random.default_rng((self._seed, step)), self._episodes.rules
        tasks = self._family.draw(rng, self._rows)
        places = self._episodes.draw(rng, tasks, self._segments, self._family, rules.prior)
        segments = self._episodes.cut(*places, tasks, self._family)
        # In training no segment is the running one, so any may hide its rewards; how many differs from chain to chain.
        share = rng.random((self._rows, 1)) if rules.show_rewards == "past" else float(rules.show_rewards == "all")
        shown = rng.random(segments.first.shape) < share
        return chains(segments, self._telling(segments.observations, tasks), shown, self._chain_rules, rules)
