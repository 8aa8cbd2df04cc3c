"""The figures of a comparison: intervals of all cells, returns by context length and by episode, profiles."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from launch.comparison import Comparison, Measured
from launch.intervals import Interval, of_interquartile_mean, performance_profile
from launch.labels import BASE
from launch.plots import GREY, INK, STYLE, png
from launch.statistics import powers_of_two

_COLOURS = ("#0b6fb8", "#d1630f", "#5b8c3e", "#7a3e9d", "#b08900", "#1d7f86", "#c2306b", "#5c5c9e")
_DASHES = ("-", ":", "--", "-.")
"""Of protocols, in the order of the results."""
_WIDTH = 9.4
_PANELS = {"last": "Last episode", "mean": "Mean episode", "max": "Best episode", "difference": "Last, less control's"}
_LINES = 4
"""Cells in a panel: more get panels of their own below."""

_FEW = 9
"""Points of a line that are shown as such: fewer than this."""

Series = tuple[str, str, str, np.ndarray, np.ndarray]
"""Label, colour, dashes, x [n], and [3, n]: value, low, high."""


def draw(comparison: Comparison) -> dict[str, bytes]:
    """Name -> PNG."""
    with matplotlib.rc_context(STYLE):
        return {
            "intervals": png(_plot_intervals(comparison)),
            "by_trajs": png(_plot_by_trajs(comparison)),
            "by_episode": png(_plot_by_episode(comparison)),
            "profiles": png(_plot_profiles(comparison)),
        }


def protocols(comparison: Comparison) -> list[str]:
    """In the order in which the results name them, those first of the cell that has most."""
    lines = sorted(comparison.lines, key=lambda line: -len(line.measured))
    return list(dict.fromkeys(name for line in lines for name in line.measured))


def _plot_intervals(comparison: Comparison) -> Figure:
    """Every cell a line: last, mean and best episode, and the difference of the last against the control."""
    lines, names = comparison.lines, protocols(comparison)
    labels = [_wrapped(line.label) for line in lines]
    each = max(0.2 * len(names) + 0.12, 0.17 * max(label.count("\n") + 1 for label in labels))
    figure = Figure(figsize=(1.25 * _WIDTH, 1.1 + each * len(lines)), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for panel, title in zip(panels, _PANELS.values(), strict=True):
        panel.set_title(title)
        panel.grid(axis="x")
        panel.grid(False, axis="y")
        panel.tick_params(axis="y", left=False)
    for panel in panels[:-1]:
        panel.axvline(lines[0].row["data"]["best"], color=GREY, linewidth=1.2, linestyle=(0, (5, 4)))
    panels[-1].axvline(0, color=GREY, linewidth=1.2)
    for i, line in enumerate(lines):
        for k, name in enumerate(names):
            height = i + (k - (len(names) - 1) / 2) * 0.7 / len(names)
            if measured := line.measured.get(name):
                for panel, statistic in zip(panels[:-1], _PANELS, strict=False):
                    _draw_interval(panel, height, measured.statistics[statistic], k)
            if name in line.differences:
                _draw_interval(panels[-1], height, line.differences[name][0], k)
    panels[0].set_yticks(range(len(lines)), labels, fontsize=9)
    panels[0].set_ylim(len(lines) - 0.4, -0.6)
    for k, name in enumerate(names):
        panels[-1].plot([], [], "o", color=_COLOURS[k % len(_COLOURS)], label=name)
    panels[-1].legend(loc="best", fontsize=8, frameon=False, title="in context", title_fontsize=8)
    return figure


def _draw_interval(axes: Axes, height: float, interval: Interval, number: int) -> None:
    colour = _COLOURS[number % len(_COLOURS)]
    axes.plot([interval.low, interval.high], [height, height], color=colour, linewidth=4, alpha=0.35)
    axes.plot(interval.value, height, "o", color=colour)


def _plot_by_trajs(comparison: Comparison) -> Figure:
    """Last and best episode over trajectories: those that cells were trained with, where that is swept; else the first
    n episodes of each cell's chains.
    """
    if len({line.trajs for line in comparison.lines}) > 1:
        return _panels(
            comparison, [_over_cells(comparison, name) for name in ("last", "max")], "trajectories in context"
        )
    return _panels(comparison, [_over_prefixes(comparison, name) for name in ("last", "max")], "episodes of the chain")


def _over_cells(comparison: Comparison, statistic: str) -> list[Series]:
    """A cell of one trajectory has no context: it begins the lines of all protocols."""
    names = protocols(comparison)
    points: dict[tuple[str, str], list[tuple[int, Interval]]] = {}
    for line in sorted(comparison.lines, key=lambda line: line.trajs):
        alone = next(iter(line.measured.values())) if line.trajs == 1 else None
        for name in names:
            if measured := line.measured.get(name, alone):
                points.setdefault((line.others, name), []).append((line.trajs, measured.statistics[statistic]))
    found = [
        (others, name, np.array([n for n, _ in part]), np.array([interval for _, interval in part]).T)
        for (others, name), part in points.items()
    ]
    return _coloured(found, names)


def _over_prefixes(comparison: Comparison, statistic: str) -> list[Series]:
    found = []
    for line in comparison.lines:
        for name, measured in line.measured.items():
            x = np.array(powers_of_two(measured.returns.shape[2]))
            best = np.maximum.accumulate(measured.returns, axis=2) if statistic == "max" else measured.returns
            found.append((line.label, name, x, _by_episode(measured, best[..., x - 1])))
    return _coloured(found, protocols(comparison))


def _by_episode(measured: Measured, values: np.ndarray) -> np.ndarray:
    """[S, C, n] -> [3, n]: interquartile means and their intervals."""
    columns = np.moveaxis(values, 2, 0)
    return np.array([of_interquartile_mean(column, measured.counts) for column in columns]).T


def _plot_by_episode(comparison: Comparison) -> Figure:
    found = []
    for line in comparison.lines:
        for name, measured in line.measured.items():
            episodes = np.arange(1, measured.returns.shape[2] + 1)
            found.append((line.label, name, episodes, _by_episode(measured, measured.returns)))
    return _panels(comparison, [_coloured(found, protocols(comparison))], "episode of the chain", logarithmic=False)


def _plot_profiles(comparison: Comparison) -> Figure:
    """The share of chains whose last, and whose best, episode returns more than x."""
    every = [m.returns for line in comparison.lines for m in line.measured.values()]
    low, high = min(0.0, min(r.min() for r in every)), max(r.max() for r in every)
    above = np.linspace(low, high, 101)
    both = []
    for best in (False, True):
        found = []
        for line in comparison.lines:
            for name, measured in line.measured.items():
                values = measured.returns.max(axis=2) if best else measured.returns[..., -1]
                found.append((line.label, name, above, performance_profile(values, measured.counts, above)))
        both.append(_coloured(found, protocols(comparison)))
    return _panels(comparison, both, "return", shares=True)


def _coloured(found: Sequence[tuple[str, str, np.ndarray, np.ndarray]], names: Sequence[str]) -> list[Series]:
    """(label, protocol, x, y): a colour for each label, dashes for each protocol."""
    labels = list(dict.fromkeys(label for label, *_ in found))
    colours = dict(zip(labels, itertools.cycle(_COLOURS), strict=False))
    dashes = dict(zip(names, itertools.cycle(_DASHES), strict=False))
    return [(label, colours[label], dashes[name], x, y) for label, name, x, y in found]


def _panels(
    comparison: Comparison,
    columns: Sequence[list[Series]],
    x_label: str,
    logarithmic: bool = True,
    shares: bool = False,
) -> Figure:
    """Last episode left and best right, or one column; four labels in a row of panels, all on the same axes."""
    labels = list(dict.fromkeys(label for label, *_ in columns[0]))
    rows = [labels[i : i + _LINES] for i in range(0, len(labels), _LINES)]
    figure = Figure(figsize=(_WIDTH, 3.7 * len(rows)))
    panels = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.07, right=0.8, top=1 - 0.09 / len(rows), bottom=0.14 / len(rows), wspace=0.06, hspace=0.12
    )
    for some, row in zip(rows, panels, strict=True):
        for series, axes in zip(columns, row, strict=True):
            shown = _apart([one for one in series if one[0] in some])
            for one in shown:
                _draw_series(axes, *one)
            if not shares:
                best = comparison.lines[0].row["data"]["best"]
                axes.axhline(best, color=GREY, linewidth=1.2, linestyle=(0, (5, 4)), label="best in the data")
        _set_x(row, [one for series in columns for one in series], logarithmic and not shares)
        row[0].set_ylabel("share of chains above" if shares else "return")
        _explain(row[-1], shown, protocols(comparison))
    for axes in panels[-1]:
        axes.set_xlabel(x_label)
    for axes, title in zip(panels[0], ("Last episode", "Best of all episodes"), strict=False):
        axes.set_title(title if len(columns) > 1 else "Return by episode")
    return figure


def _apart(shown: Sequence[Series]) -> list[Series]:
    """Single points at the same x beside each other in place of on top of each other."""
    at = [float(one[3][0]) if len(one[3]) == 1 else None for one in shown]
    steps = {x: iter(np.linspace(-0.25, 0.25, at.count(x))) if at.count(x) > 1 else iter([0.0]) for x in at}
    return [
        one if x is None else (*one[:3], one[3] * 2 ** next(steps[x]), one[4]) for one, x in zip(shown, at, strict=True)
    ]


def _draw_series(axes: Axes, _: str, colour: str, dashes: str, x: np.ndarray, y: np.ndarray) -> None:
    value, low, high = y
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    if len(x) == 1:
        axes.vlines(x, low, high, color=colour, linewidth=4, alpha=0.35)
    fill = colour if dashes == _DASHES[0] else "white"
    axes.plot(x, value, color=colour, linestyle=dashes, marker="o" if len(x) < _FEW else "", markerfacecolor=fill)


def _set_x(row: Sequence[Axes], shown: Sequence[Series], logarithmic: bool) -> None:
    for axes in row:
        if logarithmic:
            ticks = sorted({int(n) for *_, x, _ in shown for n in x})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [str(n) for n in ticks])
            axes.minorticks_off()
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _explain(axes: Axes, shown: Sequence[Series], names: Sequence[str]) -> None:
    """At the right: the colours of the cells, and the dashes of the protocols."""
    several = len({label for label, *_ in shown}) > 1
    for label, colour in dict.fromkeys((label, colour) for label, colour, *_ in shown):
        axes.plot([], [], color=colour, label=_wrapped(label) or (BASE if several else "all cells"))
    marker = "o" if any(len(x) < _FEW for *_, x, _ in shown) else ""
    for name, dashes in zip(names, itertools.cycle(_DASHES), strict=False):
        fill = INK if dashes == _DASHES[0] else "white"
        style: dict[str, Any] = {"linestyle": dashes, "linewidth": 1.5, "marker": marker, "markerfacecolor": fill}
        axes.plot([], [], color=INK, markersize=4, label=f"context: {name}", **style)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=8.5, frameon=False)


def _wrapped(label: str) -> str:
    """At most about 24 letters in a line."""
    lines = [""]
    for word in label.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) > 24:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
