"""The same cells in several environments, all environments together: shares of the best episode in each one's data.

Cells of different environments are the same when their flags are, but for those that name environment and data. An
environment with several data sets counts as several.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Canvas

from launch.cells import NOT_A_CELL, differing
from launch.intervals import Interval, draw_counts, of_interquartile_mean, performance_profile
from launch.plan import CONFIGS
from launch.plots import GREY, INK, STYLE, png
from launch.sections import Figure, Section, show, span

ENVIRONMENT = ("env", "dataset", "max_steps")
"""Flags in which a cell may differ from one environment to another."""
METHOD = (
    "All environments: a chain's last episode, as a share of the best episode in its environment's data, in percent. "
    "An environment's number is the interquartile mean over seeds and chains. Over all it is the interquartile mean of "
    "the chains of all environments, given where a cell has them all; its interval keeps the environments as they are, "
    "and draws seeds, and chains within seeds, in each (Agarwal et al., arXiv 2108.13264)."
)
_CAPTION = (
    "Left: interquartile means over all environments, with 95% intervals. Right: performance profiles, the share of "
    "chains of all environments whose last episode returns more than x; bands are pointwise 95% intervals. Dashed: "
    "the best episode in the data."
)
_COLOURS = ("#0b6fb8", "#d1630f", "#5b8c3e", "#7a3e9d", "#b08900", "#1d7f86", "#c2306b", "#5c5c9e", "#6b4a2b", INK)
_DASHES = ("-", ":", "--", "-.")
_UNKNOWN = Interval(math.nan, math.nan, math.nan)


class Line(NamedTuple):
    """A cell under one protocol, over environments."""

    label: str
    protocol: str
    by_env: dict[str, Interval]
    """The last episode as a share of the best in the data, where the cell was measured."""
    values: np.ndarray
    """[n]: that of every chain of every environment; as many of each environment."""
    counts: np.ndarray
    """[R, n]: the resamples that the intervals over all are from."""
    total: Interval
    """Over all environments; NaN where one is missing."""


def make_sections(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Rows with returns -> a section, or none where no cell was measured in several environments."""
    rows = [row for row in rows if row["data"]["best"] > 0]
    lines = compare(rows) if len({row["env"] for row in rows}) > 1 else []
    if not lines:
        return []
    envs = list(dict.fromkeys(environments(rows)))
    seeds = [len(row["seeds"]) for row in rows]
    chains = [count for row in rows for count in row["chains"].values()]
    complete = [line for line in lines if not math.isnan(line.total.value)]
    highest = sorted(complete, key=lambda line: -line.total.value)[:1]
    return [
        Section(
            title="All environments",
            place="all",
            about=f"last episode of a chain, % of the best episode in the data; {len(envs)} environments, "
            f"{span(seeds)} training seeds x {span(chains)} chains",
            headline=[f"Highest over all environments: {_name(line)}, {show(line.total, 100)}%." for line in highest],
            header=["cell", "context", *envs, "all"],
            lines=[_cells(line, envs) for line in lines],
            kinds=[line.protocol for line in lines],
            figures={"suite": Figure(_draw(complete), _CAPTION)} if complete else {},
            method=METHOD,
        )
    ]


def environments(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each row, the name of its environment, with the data where it has several."""
    data = {env: {_data(row) for row in rows if row["env"] == env} for env in {row["env"] for row in rows}}
    return [row["env"] if len(data[row["env"]]) == 1 else f"{row['env']}, {_data(row)}" for row in rows]


def _data(row: Mapping[str, Any]) -> str:
    steps = row["flags"].get("max_steps")
    return f"{row['dataset']}, {steps} steps" if steps else row["dataset"]


def compare(rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """A line for each cell that several environments have, and each protocol of it."""
    envs = environments(rows)
    cells: dict[str, dict[str, Mapping[str, Any]]] = {}
    for env, row in zip(envs, rows, strict=True):
        cells.setdefault(_identity(row["flags"]), {})[env] = row
    shared = [of_env for of_env in cells.values() if len(of_env) > 1]
    lines = []
    for label, of_env in zip(_labels(shared), shared, strict=True):
        for protocol in dict.fromkeys(name for row in of_env.values() for name in row["returns"]):
            found = {env: _shares(row, protocol) for env, row in of_env.items() if protocol in row["returns"]}
            lines.append(_line(label, protocol, found, len(set(envs))))
    return lines


def _line(label: str, protocol: str, shares: Mapping[str, np.ndarray], envs: int) -> Line:
    """shares: of each environment [S, C]; of all, the seeds and chains that each has are taken together."""
    seeds, chains = np.min([matrix.shape for matrix in shares.values()], axis=0)
    by_env = {}
    for env, matrix in shares.items():
        by_env[env] = of_interquartile_mean(matrix, draw_counts(len(matrix), matrix.shape[1], np.random.default_rng(0)))
    rng = np.random.default_rng(0)
    counts = np.concatenate([draw_counts(seeds, chains, rng) for _ in shares], axis=1)
    values = np.stack([matrix[:seeds, :chains] for matrix in shares.values()]).ravel()
    total = of_interquartile_mean(values, counts) if len(shares) == envs else _UNKNOWN
    return Line(label, protocol, by_env, values, counts, total)


def _shares(row: Mapping[str, Any], protocol: str) -> np.ndarray:
    """-> [S, C]: last episodes over the best in the data."""
    return np.array(row["returns"][protocol], float)[..., -1] / row["data"]["best"]


def _identity(flags: Mapping[str, Any]) -> str:
    """The flags that make a cell, wherever it is measured; those at their defaults count for nothing, so that rows from
    before a flag was there match later ones."""
    defaults = {field.name: field.default for config in CONFIGS for field in dataclasses.fields(config)}
    apart = (*NOT_A_CELL, *ENVIRONMENT)
    return json.dumps({k: v for k, v in flags.items() if k not in apart and v != defaults.get(k)}, sort_keys=True)


def _labels(cells: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The fewest flags, of those typed, that tell the cells apart."""
    first = [next(iter(of_env.values())) for of_env in cells]
    typed = [{k: v for k, v in row["typed"].items() if k not in ENVIRONMENT} for row in first]
    words = differing([(names, row["flags"]) for names, row in zip(typed, first, strict=True)])
    for name in list(words[0] if words else ())[::-1]:
        fewer = [{k: v for k, v in of_cell.items() if k != name} for of_cell in words]
        if len({tuple(of_cell.values()) for of_cell in fewer}) == len({tuple(of_cell.values()) for of_cell in words}):
            words = fewer
    return [" ".join(of_cell.values()) or row["cell"] for of_cell, row in zip(words, first, strict=True)]


def _cells(line: Line, envs: Sequence[str]) -> list[str]:
    shown = [*(line.by_env.get(env, _UNKNOWN) for env in envs), line.total]
    return [line.label, line.protocol, *(show(interval, 100, digits=0) for interval in shown)]


def _name(line: Line) -> str:
    return f"{line.label}, context {line.protocol}"


def _draw(lines: Sequence[Line]) -> bytes:
    """A PNG: intervals of all lines, and their profiles."""
    dashes = dict(zip(dict.fromkeys(line.protocol for line in lines), itertools.cycle(_DASHES), strict=False))
    colours = dict(zip(dict.fromkeys(line.label for line in lines), itertools.cycle(_COLOURS), strict=False))
    above = np.linspace(0, max(1.05, max(line.values.max() for line in lines)), 101)
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(11, max(3.8, 1.0 + 0.3 * len(lines))), layout="constrained")
        left, right = canvas.subplots(1, 2, width_ratios=[1, 1.2])
        for height, line in enumerate(lines):
            colour, (value, low, high) = colours[line.label], line.total
            left.plot([100 * low, 100 * high], [height, height], color=colour, linewidth=4, alpha=0.35)
            left.plot(100 * value, height, "o", color=colour)
            share, low_share, high_share = performance_profile(line.values, line.counts, above)
            right.fill_between(100 * above, low_share, high_share, color=colour, alpha=0.1, linewidth=0)
            right.plot(100 * above, share, color=colour, linestyle=dashes[line.protocol], label=_name(line))
        left.set_yticks(range(len(lines)), [_name(line) for line in lines], fontsize=9)
        left.set(ylim=(len(lines) - 0.4, -0.6), title="Last episode, % of the best in the data")
        left.grid(axis="x")
        left.grid(False, axis="y")
        right.set(title="Share of chains above x", xlabel="last episode, % of the best in the data", ylim=(0, 1.02))
        for axes in (left, right):
            axes.axvline(100, color=GREY, linewidth=1.2, linestyle=(0, (5, 4)))
        right.legend(fontsize=8.5, frameon=False, loc="lower left")
        return png(canvas)
