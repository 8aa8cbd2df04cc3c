"""Statistics over chains: each chain gives one number, and the interval is over chains, never over episodes.

A chain of n trajectories is the first n episodes of the longest chain: the policy is causal and plays the
episodes of a chain one after another, so the prefix is the shorter chain, episode for episode.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from launch.metrics import of_the_run
from launch.plan import PROTOCOLS


class Estimate(NamedTuple):
    """A mean over chains; its 95% interval is mean - margin to mean + margin."""

    mean: float
    margin: float
    """NaN with fewer than two chains."""


class Summary(NamedTuple):
    """What the first `trajs` episodes of every chain returned, in environment units."""

    protocol: str
    trajs: int
    chains: int
    first: Estimate
    last: Estimate
    mean: Estimate
    median: Estimate
    max: Estimate
    """Mean over chains of the best episode. It rises with `trajs` for any policy that varies."""
    fall_rate: Estimate
    """Share of episodes that return less than half of the best episode in the data, in [0, 1]; NaN where that is not
    positive."""
    last_of_best: float
    """Mean return of the last episode over the best return in the data; NaN where that is not positive."""


Chains = Mapping[tuple[int, int], np.ndarray]
"""(seed, chain) -> returns [episodes], all of the same length."""


class Result(NamedTuple):
    """The newest measurement of a run, beside its data."""

    row: dict[str, Any]
    """The newest row, for what all of them share: env, update, command, versions and so on."""
    chains: dict[str, Chains]
    """protocol -> its chains; a protocol without a whole chain is absent."""
    summaries: list[Summary]
    gain: Estimate | None
    """What context changes in the return of the last episode; None without a control."""
    prompts: dict[str, Estimate]
    """By protocol what it changes in the mean episode, where there is a control."""
    data: np.ndarray
    """[episodes]: the return of every episode in the data."""
    history: dict[int, Summary]
    """update -> the whole chains with own episodes in context, where measured."""


def estimate(values: np.ndarray) -> Estimate:
    """[chains] -> mean and 95% Student-t margin: t(0.975, n - 1) * sd / sqrt(n), sd with n - 1."""
    n = len(values)
    if n < 2:
        return Estimate(float(np.mean(values)), float("nan"))
    margin = scipy.stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return Estimate(float(np.mean(values)), float(margin))


def summarise(returns: np.ndarray, protocol: str, trajs: int, data_best: float) -> Summary:
    """[chains, episodes] -> the statistics of its first `trajs` episodes.

    Args:
        returns: one row per chain, in the order of play.
        protocol: what was in context, copied.
        trajs: from 1 to the number of episodes.
        data_best: the best return of one episode in the data.

    Raises:
        ValueError: more trajectories than the chains have episodes, or none.
    """
    chains, episodes = returns.shape
    if not 1 <= trajs <= episodes:
        raise ValueError(f"trajs is {trajs}, expected 1 to {episodes}, the episodes of the longest chain")
    prefix = returns[:, :trajs]
    last = estimate(prefix[:, -1])
    return Summary(
        protocol=protocol,
        trajs=trajs,
        chains=chains,
        first=estimate(prefix[:, 0]),
        last=last,
        mean=estimate(prefix.mean(axis=1)),
        median=estimate(np.median(prefix, axis=1)),
        max=estimate(prefix.max(axis=1)),
        fall_rate=estimate((prefix < data_best / 2).mean(axis=1) if data_best > 0 else np.full(chains, np.nan)),
        last_of_best=last.mean / data_best if data_best > 0 else float("nan"),
    )


def powers_of_two(episodes: int) -> list[int]:
    """1, 2, 4, ... and the number of episodes itself."""
    return sorted({2**k for k in range(episodes.bit_length())} | {episodes})


def newest_chains(rows: Sequence[Mapping[str, Any]], protocol: str, update: int) -> Chains:
    """The chains of the last measurement of one protocol at an update.

    The rows of one measurement share everything but chain, episode and what was returned there: also command
    and time, since provenance() is asked once. Rows of earlier measurements stay out. A chain without all its
    episodes, which a killed program leaves, is left out with a warning.
    """
    rows = [row for row in rows if row["protocol"] == protocol and row["update"] == update]
    if not rows:
        return {}
    same = ("env", "dataset_hash", "method", "trajs", "target_return", "command", "time")
    rows = [row for row in rows if all(row[field] == rows[-1][field] for field in same)]
    chains: dict[tuple[int, int], dict[int, float]] = {}
    for row in rows:
        chains.setdefault((row["seed"], row["chain"]), {})[row["episode"]] = row["return"]
    episodes = max(row["episode"] for row in rows)
    short = [chain for chain, found in chains.items() if len(found) < episodes]
    if short:
        warnings.warn(
            f"{len(short)} of {len(chains)} chains ({protocol!r}, update {update}) have fewer than "
            f"{episodes} episodes and are left out",
            stacklevel=2,
        )
    return {
        chain: np.array([found[episode] for episode in range(1, episodes + 1)])
        for chain, found in sorted(chains.items())
        if chain not in short
    }


def stack(chains: Chains) -> np.ndarray:
    """[chains, episodes]."""
    return np.stack(list(chains.values()))


def gain_from_context(own: Chains, none: Chains) -> Estimate | None:
    """Last episode with context less the same one without, chain by chain; None if no chain is in both."""
    common = own.keys() & none.keys()
    if not common:
        return None
    last = min(stack(own).shape[1], stack(none).shape[1]) - 1
    return estimate(np.array([own[chain][last] - none[chain][last] for chain in sorted(common)]))


def gain_from_prompt(prompted: Chains, none: Chains) -> Estimate | None:
    """Mean episode with a context less the same ones without, chain by chain; None if no chain is in both."""
    common = sorted(prompted.keys() & none.keys())
    if not common:
        return None
    episodes = min(stack(prompted).shape[1], stack(none).shape[1])
    return estimate(np.array([(prompted[c][:episodes] - none[c][:episodes]).mean() for c in common]))


def newest_result(rows: Sequence[Mapping[str, Any]], data: np.ndarray, trajs: Sequence[int] | None) -> Result:
    """Rows of a results.jsonl -> the statistics of its newest update.

    Args:
        rows: in the order of the file.
        data: [episodes], the return of every episode in the data.
        trajs: the numbers of trajectories in context to report; None for 1, 2, 4, ... and the whole chain.

    Raises:
        ValueError: there is no row or no whole chain, or none has so many trajectories.
    """
    if not rows:
        raise ValueError("results.jsonl holds no row: evaluate first")
    updates = sorted({row["update"] for row in rows})
    last = [row for row in rows if row["update"] == updates[-1]][-1]
    mine = of_the_run(map(dict, rows))
    own = {update: newest_chains(mine, "own", update) for update in updates}
    # Of one evaluation: another's chains may have had other initial states, another target, another length.
    of_command = [row for row in rows if row["command"] == last["command"]]
    found = {protocol: newest_chains(of_command, protocol, updates[-1]) for protocol in PROTOCOLS}
    chains = {protocol: part for protocol, part in found.items() if part}
    if not chains:
        raise ValueError(f"results.jsonl has no whole chain at update {updates[-1]}: evaluate again")
    returns = {protocol: stack(part) for protocol, part in chains.items()}
    best = float(data.max())
    return Result(
        row=dict(last),
        chains=chains,
        summaries=[
            summarise(matrix, protocol, n, best)
            for protocol, matrix in returns.items()
            for n in trajs or powers_of_two(matrix.shape[1])
        ],
        gain=gain_from_context(found["own"], found["none"]),
        prompts={
            protocol: gain
            for protocol in ("own", "ranked", "best", "worst")
            if (gain := gain_from_prompt(found[protocol], found["none"])) is not None
        },
        data=data,
        history={
            update: summarise(stack(part), "own", stack(part).shape[1], best) for update, part in own.items() if part
        },
    )
