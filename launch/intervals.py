"""Interquartile means and bootstrap intervals over training seeds and chains, after Agarwal et al., arXiv 2108.13264.

A measurement is a matrix [S, C]: one number for each chain of each training seed. The interquartile mean drops the
lowest and the highest quarter of its S C numbers. An interval resamples the matrix with replacement: the seeds are
its strata, chains are drawn within each; and since other seeds would have trained other policies, the seeds themselves
are drawn first. With few seeds that is still too narrow: three or four cannot show how far a fifth would fall. With
few numbers, too: drawn from a normal distribution, the intervals of 4 chains of one seed hold the truth in 81% (means)
to 88% (interquartile means) of cases, those of 8 in 89 to 93%, those of 2 in 50%, which is why there are none below 4.

What is drawn are counts, how often each chain is in the resample: one draw serves every statistic of a cell.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 4
"""Numbers that give an interval."""
RESAMPLES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A statistic, and the ends of its 95% percentile interval."""

    value: float
    low: float
    high: float
    """NaN, as low, of fewer numbers than FEWEST."""


def draw_counts(
    seeds: int, chains: int, rng: np.random.Generator, resamples: int = RESAMPLES, fixed: bool = False
) -> np.ndarray:
    """-> [R, S C] int64: how often each chain is in each resample; every row sums to S C.

    fixed: the strata stay as they are, as the tasks of a benchmark do, and only within them is drawn: the stratified
    bootstrap of the paper. Else each of S strata is drawn from the S there are, and C chains within each drawn.
    """
    return draw_strata([chains] * seeds, rng, resamples, fixed)


def draw_strata(
    sizes: Sequence[int], rng: np.random.Generator, resamples: int = RESAMPLES, fixed: bool = False
) -> np.ndarray:
    """-> [R, sum(sizes)] int64: the same of seeds with `sizes` chains, weighted as in stratum_weights."""
    n, largest = np.array(sizes), max(sizes)
    strata = np.ones((resamples, len(n)), np.int64) if fixed else rng.multinomial(len(n), _even(len(n)), resamples)
    # What is not there comes first: multinomial gives the last what rounding leaves over.
    there = np.arange(largest) >= largest - n[:, None]
    counts = rng.multinomial(strata * n, there / n[:, None])[:, there]
    return counts * stratum_weights(sizes)


def stratum_weights(sizes: Sequence[int]) -> np.ndarray:
    """-> [sum(sizes)] int64: how often each chain counts, so that all seeds count the same."""
    return np.repeat(math.lcm(*sizes) // np.array(sizes), sizes)


def _even(n: int) -> np.ndarray:
    return np.full(n, 1 / n)


def _interquartile_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[n], [R, n] -> [R]: of samples that hold value i counts[r, i] times; every row of counts has the same sum."""
    order = np.argsort(values, kind="stable")
    size = int(counts[0].sum())
    cut = size // 4
    ends = np.clip(np.cumsum(counts[:, order], axis=1), cut, size - cut)
    kept = np.diff(ends, axis=1, prepend=cut)
    return kept @ values[order] / (size - 2 * cut)


def of_interquartile_mean(values: np.ndarray, counts: np.ndarray, weights: np.ndarray | None = None) -> Interval:
    """[S, C] or [n], [R, n] -> the mean without the lowest and the highest floor(n / 4), as scipy's trim_mean(values,
    0.25), and its interval.

    weights: [n] int, how often each value counts in the sample, as `counts` has it of the resamples; None is once.
    """
    values = np.ravel(values)
    (value,) = _interquartile_means(values, _once(values, weights)[None])
    return _interval(values, float(value), _interquartile_means(values, counts))


def of_mean(values: np.ndarray, counts: np.ndarray, weights: np.ndarray | None = None) -> Interval:
    """The same of the mean: for shares, and for differences that falls decide."""
    values, weights = np.ravel(values), _once(np.ravel(values), weights)
    return _interval(values, float(weights @ values / weights.sum()), counts @ values / counts[0].sum())


def _once(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    return np.ones(len(values), np.int64) if weights is None else weights


def _interval(values: np.ndarray, value: float, resampled: np.ndarray) -> Interval:
    if len(values) < FEWEST:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def performance_profile(
    values: np.ndarray, counts: np.ndarray, above: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """[S, C] or [n], [R, n], thresholds [T] -> [3, T]: the share of values above each, and its pointwise interval."""
    over, weights = (np.ravel(values)[:, None] > above).astype(float), _once(np.ravel(values), weights)
    resampled = counts @ over / counts[0].sum()
    ends = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    if len(over) < FEWEST:
        ends = np.full_like(ends, np.nan)
    return np.concatenate([(weights @ over / weights.sum())[None], ends])


def paired_difference(
    one: dict[int, np.ndarray], other: dict[int, np.ndarray], last: bool, rng: np.random.Generator
) -> Interval | None:
    """What one cell returns above another, chain by chain of the same seed: same initial states, so their luck cancels.

    Args:
        one, other: seed -> returns [C, E]; chain c and episode e of a seed start from the same state in both.
        last: the last episode, NaN where one cell plays longer chains, whose last starts from another state; else the
            mean over the episodes that both have.

    Returns the mean difference over common seeds and chains, or None where there are none.
    """
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return None
    chains = min(len(found[seed]) for found in (one, other) for seed in seeds)
    differences = []
    for seed in seeds:
        a, b = one[seed][:chains], other[seed][:chains]
        episodes = min(a.shape[1], b.shape[1])
        whole = a[:, :episodes].mean(axis=1) - b[:, :episodes].mean(axis=1)
        ends = a[:, -1] - b[:, -1] if a.shape == b.shape else np.full(chains, np.nan)
        differences.append(ends if last else whole)
    return of_mean(np.array(differences), draw_counts(len(seeds), chains, rng))
