"""The same cells in several environments, all environments together: shares of the best episode in each one's data.

Cells of different environments are the same when their flags are, but for those that name environment and data. An
environment with data sets of several names counts as several. Data of one name that differ, as those that one command
makes on different kinds of CPU, are taken together: each counts as share of its own best episode.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from launch import labels
from launch.cells import NOT_A_CELL
from launch.intervals import (
    Interval,
    draw_strata,
    of_interquartile_mean,
    of_mean,
    performance_profile,
    stratum_weights,
)
from launch.plan import DEFAULTS, WATCHING
from launch.plots import GREY, INK, STYLE, png
from launch.sections import Figure, Section, count, show

ENVIRONMENT = ("env", "dataset", "max_steps")
"""Flags in which a cell may differ from one environment to another."""
STATISTICS = {"last": "last episode of a chain", "mean": "mean episode of a chain", "max": "best episode of a chain"}
METHOD = (
    "All environments: what a chain returned, as a share of the best episode in its environment's data, in percent. An "
    "environment's number is the interquartile mean over seeds and chains. Over all it is the interquartile mean of "
    "the chains of all environments, given where a cell has them all; its interval keeps the environments as they are, "
    "and draws seeds, and chains within seeds, in each (Agarwal et al., arXiv 2108.13264). The plain mean stands "
    "beside it: an interquartile mean over few environments leaves out whole environments in which a cell fails. Own - "
    "none is what own episodes in context give above an empty context, chain by chain, in plain means. Without a "
    "context the last episode is one like all others, and the mean tells the same with less noise; the best of a chain "
    "rises with its length for any policy that varies, so it is given of the longest chains alone. Where "
    "one command made different data, as on different kinds of CPU, the seeds of all of them are taken together, each "
    "as a share of the best episode in its own data."
)
_CAPTION = (
    "Interquartile means over all environments, with 95% intervals, and performance profiles: the share of chains of "
    "all environments whose mean episode returns more than x, with pointwise 95% intervals. Dashed: the best episode "
    "in the data."
)
_COLOURS = ("#0b6fb8", "#d1630f", "#5b8c3e", "#7a3e9d", "#b08900", "#1d7f86", "#c2306b", "#5c5c9e", "#6b4a2b", INK)
_DASHES = ("-", ":", "--", "-.")
_UNKNOWN = Interval(math.nan, math.nan, math.nan)


class Line(NamedTuple):
    """A cell under one protocol, over environments."""

    label: str
    protocol: str
    by_env: dict[str, Interval]
    """A statistic as a share of the best episode in the data, where the cell was measured."""
    values: np.ndarray
    """[n]: that of every chain of every seed and environment."""
    weights: np.ndarray
    """[n] int: how often each counts, so that environments count the same, and the seeds of one do, however many chains
    they have."""
    counts: np.ndarray
    """[R, n]: the resamples that the intervals over all are from."""
    total: Interval
    """Over all environments; NaN where one is missing."""

    @property
    def plain(self) -> float:
        """The mean over environments."""
        return float(self.weights @ self.values / self.weights.sum())


def make_sections(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Rows with returns -> a section for each statistic, or none where no cell was measured in several environments."""
    rows = [row for row in rows if row["data"]["best"] > 0]
    if len({row["env"] for row in rows}) < 2 or not compare(rows, "last"):
        return []
    found = {statistic: compare(rows, statistic) for statistic in STATISTICS}
    return [_section(rows, statistic, found) for statistic in STATISTICS]


def _section(rows: Sequence[Mapping[str, Any]], statistic: str, found: Mapping[str, list[Line]]) -> Section:
    """The figure of all statistics stands above the first."""
    envs = list(dict.fromkeys(environments(rows)))
    shared = _shared(rows)
    seeds = [
        len({(row.get("dataset_hash"), seed) for row in found for seed in row["seeds"]})
        for of_env in shared
        for found in of_env.values()
    ]
    data = [len({row.get("dataset_hash") for row in found}) for of_env in shared for found in of_env.values()]
    chains = [count for row in rows for count in row["chains"].values()]
    complete = {name: [line for line in lines if not math.isnan(line.total.value)] for name, lines in found.items()}
    highest = sorted(complete[statistic], key=lambda line: -line.total.value)[:1]
    plainest = sorted(complete[statistic], key=lambda line: -line.plain)[:1]
    gained = gains(rows, statistic)
    first = next(iter(found)) == statistic and complete[statistic]
    return Section(
        title=f"All environments, {STATISTICS[statistic]}",
        place="all",
        about=f"{STATISTICS[statistic]}, % of the best episode in the data; {len(envs)} environments, "
        + (f"{count(data, 'data set')} of each, " if max(data) > 1 else "")
        + f"{count(seeds, 'training seed')} x {count(chains, 'chain')}{labels.aside(_names(shared).common)}",
        headline=[f"Highest over all environments: {_name(line)}, {show(line.total, 100)}%." for line in highest]
        + [f"Highest by the plain mean: {_name(line)}, {100 * line.plain:.1f}%." for line in plainest],
        header=["cell", "context", *envs, "all", "all, plain mean"],
        lines=[_cells(line, envs) for line in found[statistic]] + [_cells(line, envs, sign=True) for line in gained],
        kinds=[line.protocol for line in [*found[statistic], *gained]],
        figures={"suite": Figure(_draw(complete), _CAPTION)} if first else {},
        method=METHOD,
    )


def environments(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each row, the name of its environment, with the data where it has several."""
    data = {env: {_data(row) for row in rows if row["env"] == env} for env in {row["env"] for row in rows}}
    return [row["env"] if len(data[row["env"]]) == 1 else f"{row['env']}, {_data(row)}" for row in rows]


def _data(row: Mapping[str, Any]) -> str:
    steps = row["flags"].get("max_steps")
    return f"{row['dataset']}, {steps} steps" if steps else row["dataset"]


Rows = Sequence[Mapping[str, Any]]


def compare(rows: Rows, statistic: str) -> list[Line]:
    """A line for each cell that several environments have, and each protocol of it."""
    envs, shared = len(set(environments(rows))), _shared(rows)
    return [
        _line(label, protocol, shares, envs)
        for label, of_env in zip(_names(shared).labels(), _told(shared, statistic), strict=True)
        for protocol in _protocols(of_env)
        if (shares := _by_env(of_env, statistic, protocol))
    ]


def gains(rows: Rows, statistic: str) -> list[Line]:
    """The same of what each protocol with a context gives above an empty one, chain by chain."""
    envs, shared = len(set(environments(rows))), _shared(rows)
    lines = []
    for label, of_env in zip(_names(shared).labels(), _told(shared, statistic), strict=True):
        for protocol in _protocols(of_env):
            less = {} if protocol == "none" else _by_env(of_env, statistic, protocol, "none")
            if less:
                lines.append(_line(label, f"{protocol} - none", less, envs, of_mean))
    return lines


def _told(shared: Sequence[dict[str, Rows]], statistic: str) -> Sequence[dict[str, Rows]]:
    """The rows that a statistic is told of: the best of 4 episodes does not stand beside the best of 32."""
    if statistic != "max":
        return shared
    longest = max(_length(row) for of_env in shared for rows in of_env.values() for row in rows)
    return [{env: [row for row in rows if _length(row) == longest] for env, rows in of.items()} for of in shared]


def _length(row: Mapping[str, Any]) -> int:
    """Episodes of a chain."""
    return max(len(chains[0][0]) for chains in row["returns"].values())


def _protocols(of_env: Mapping[str, Rows]) -> list[str]:
    return list(dict.fromkeys(name for rows in of_env.values() for row in rows for name in row["returns"]))


def _by_env(of_env: Mapping[str, Rows], statistic: str, protocol: str, less: str = "") -> dict[str, list[np.ndarray]]:
    """Of a cell, by environment an array [C] for each seed of all its data: a statistic under a protocol, where it was
    played; less: another protocol, whose is taken away, of the chains that both have."""
    found: dict[str, dict[tuple[str, int], np.ndarray]] = {}
    for env, rows in of_env.items():
        for row in rows:
            if {protocol, less or protocol} <= set(row["returns"]):
                shares = _shares(row, protocol, statistic)
                if less:
                    others = _shares(row, less, statistic)
                    chains = min(shares.shape[1], others.shape[1])
                    shares = shares[:, :chains] - others[:, :chains]
                of_seeds = found.setdefault(env, {})
                for seed, of_seed in zip(row["seeds"], shares, strict=True):
                    # The same weights, played again with another --prompt or more --chains, are one seed.
                    which = row.get("dataset_hash", ""), seed
                    if len(of_seed) > len(of_seeds.get(which, ())):
                        of_seeds[which] = of_seed
    return {env: list(of_seeds.values()) for env, of_seeds in found.items()}


def _shared(rows: Rows) -> list[dict[str, Rows]]:
    """Cell by cell, its rows by environment, of those that several environments have."""
    cells: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for env, row in zip(environments(rows), rows, strict=True):
        cells.setdefault(_identity(row["flags"]), {}).setdefault(env, []).append(row)
    return [dict(of_env) for of_env in cells.values() if len(of_env) > 1]


def _names(shared: Sequence[Mapping[str, Rows]]) -> labels.Names:
    return labels.name([next(iter(of_env.values()))[0] for of_env in shared], ENVIRONMENT)


def _line(
    label: str,
    protocol: str,
    shares: Mapping[str, Sequence[np.ndarray]],
    envs: int,
    estimate: Callable[..., Interval] = of_interquartile_mean,
) -> Line:
    """shares: of each environment an array [C] for each seed."""
    rng = np.random.default_rng(0)
    by_env, values, weights, counts = {}, [], [], []
    for env, seeds in shares.items():
        sizes = [len(of_seed) for of_seed in seeds]
        values.append(np.concatenate(seeds))
        weights.append(stratum_weights(sizes))
        counts.append(draw_strata(sizes, rng))
        by_env[env] = estimate(values[-1], draw_strata(sizes, np.random.default_rng(0)), weights[-1])
    whole = math.lcm(*(int(of_env.sum()) for of_env in weights))
    even = [whole // int(of_env.sum()) for of_env in weights]
    all_values = np.concatenate(values)
    all_weights = np.concatenate([of_env * factor for of_env, factor in zip(weights, even, strict=True)])
    all_counts = np.concatenate([of_env * factor for of_env, factor in zip(counts, even, strict=True)], axis=1)
    total = estimate(all_values, all_counts, all_weights) if len(shares) == envs else _UNKNOWN
    return Line(label, protocol, by_env, all_values, all_weights, all_counts, total)


def _shares(row: Mapping[str, Any], protocol: str, statistic: str) -> np.ndarray:
    """-> [S, C]: a statistic of every chain over the best in the data."""
    returns = np.array(row["returns"][protocol], float)
    of_chains = {"last": returns[..., -1], "mean": returns.mean(-1), "max": returns.max(-1)}
    return of_chains[statistic] / row["data"]["best"]


def _identity(flags: Mapping[str, Any]) -> str:
    """The flags that make a cell, wherever it is measured and however much of it was played; those at their defaults
    count for nothing, so that rows from before a flag was there match later ones."""
    apart = (*NOT_A_CELL, *WATCHING, *ENVIRONMENT)
    return json.dumps({k: v for k, v in flags.items() if k not in apart and v != DEFAULTS.get(k)}, sort_keys=True)


def _cells(line: Line, envs: Sequence[str], sign: bool = False) -> list[str]:
    shown = [*(line.by_env.get(env, _UNKNOWN) for env in envs), line.total]
    plain = "" if math.isnan(line.total.value) else f"{100 * line.plain:{'+' if sign else ''}.0f}"
    return [line.label, line.protocol, *(show(interval, 100, digits=0, sign=sign) for interval in shown), plain]


def _name(line: Line) -> str:
    return f"{line.label}, context {line.protocol}"


def _draw(lines: Mapping[str, Sequence[Line]]) -> bytes:
    """By statistic -> a PNG: a panel of intervals for each, and profiles of the mean."""
    names = [_name(line) for line in lines["mean"]]
    dashes = dict(zip(dict.fromkeys(line.protocol for line in lines["mean"]), itertools.cycle(_DASHES), strict=False))
    colours = dict(zip(dict.fromkeys(line.label for line in lines["mean"]), itertools.cycle(_COLOURS), strict=False))
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(12, max(3.8, 1.0 + 0.3 * len(names))), layout="constrained")
        panels = canvas.subplots(1, len(lines) + 1, width_ratios=[*(1 for _ in lines), 1.5])
        for axes, (statistic, of_statistic) in zip(panels, lines.items(), strict=False):
            for line in of_statistic:
                height, (value, low, high) = names.index(_name(line)), line.total
                axes.plot([100 * low, 100 * high], [height] * 2, color=colours[line.label], linewidth=4, alpha=0.35)
                axes.plot(100 * value, height, "o", color=colours[line.label])
            axes.set_yticks(range(len(names)), names if axes is panels[0] else [""] * len(names), fontsize=9)
            axes.set(ylim=(len(names) - 0.4, -0.6), title=STATISTICS[statistic].split()[0].capitalize() + " episode")
            axes.grid(axis="x")
            axes.grid(False, axis="y")
        _draw_profiles(panels[-1], lines["mean"], colours, dashes)
        for axes in panels:
            axes.axvline(100, color=GREY, linewidth=1.2, linestyle=(0, (5, 4)))
        canvas.supxlabel("% of the best episode in the data", fontsize=10)
        return png(canvas)


def _draw_profiles(axes: Axes, lines: Sequence[Line], colours: Mapping[str, str], dashes: Mapping[str, str]) -> None:
    above = np.linspace(0, max(1.05, *(line.values.max() for line in lines)), 101)
    for line in lines:
        share, low, high = performance_profile(line.values, line.counts, above, line.weights)
        axes.fill_between(100 * above, low, high, color=colours[line.label], alpha=0.1, linewidth=0)
        axes.plot(100 * above, share, color=colours[line.label], linestyle=dashes[line.protocol])
    for protocol, style in dashes.items():
        axes.plot([], [], color=INK, linestyle=style, linewidth=1.5, label=f"context: {protocol}")
    axes.legend(loc="lower left", fontsize=8.5, frameon=False)
    axes.set(title="Chains whose mean is above x", ylabel="share of chains", ylim=(0, 1.02))
