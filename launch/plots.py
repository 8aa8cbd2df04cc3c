"""The plots of a run: returns by episode, returns against trajectories in context, training curves."""

import io
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from launch.statistics import Estimate, Result, Summary, estimate, stack


def draw(result: Result, losses: dict[str, np.ndarray], short_updates: int = 0) -> dict[str, bytes]:
    """Name -> PNG. `losses`: name -> (step, value) [points, 2]; no training plot without losses or several updates."""
    with matplotlib.rc_context(STYLE):
        plots = {"returns_by_episode": _plot_by_episode(result), "returns_vs_trajs": _plot_by_trajs(result)}
        images = {name: png(figure) for name, figure in plots.items()}
    if losses or len(result.history) > 1:
        images["training"] = draw_training(losses, result.history, short_updates)
    return images


_COLOURS = {"own": "#0b6fb8", "ranked": "#1d7f86", "none": "#d1630f", "best": "#2e7d32", "worst": "#7a3e9d"}
_LABELS = {
    "own": "own episodes\nin context",
    "ranked": "own episodes,\nranked",
    "none": "empty context\n(control)",
    "best": "best data\nin context",
    "worst": "worst data\nin context",
}
_LOSS_COLOURS = ("#5b8c3e", "#7a3e9d", "#b08900", "#1d7f86")
GREY, INK = "#8a929b", "#2b3138"
STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#c4cad0",
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e8ebee",
    "xtick.color": "#5b636b",
    "ytick.color": "#5b636b",
    "lines.linewidth": 2,
    "lines.markersize": 4,
}

_Label = tuple[float, str, str]
"""The height at which a line ends, its name, its colour."""


def _plot_by_episode(result: Result) -> Figure:
    """The data's returns as a sideways histogram; beside it, on the same axis, the episodes of the chains."""
    figure = Figure(figsize=(9.4, 4.2))
    data, axes = figure.subplots(1, 2, sharey=True, width_ratios=[1, 4.5])
    figure.subplots_adjust(left=0.07, right=0.85, top=0.92, bottom=0.13, wspace=0.03)
    _draw_data_lines(data, result.data)
    bars = {"color": "#c9ced4", "edgecolor": "white", "linewidth": 0.6, "zorder": 0.5}
    data.hist(result.data, bins=24, orientation="horizontal", **bars)
    data.invert_xaxis()
    data.set_xticks([])
    data.grid(False)
    data.spines["bottom"].set_visible(False)
    data.set_title("The data")
    data.set_xlabel(f"{len(result.data)} episodes")
    data.set_ylabel("return")

    labels = _draw_data_lines(axes, result.data)
    for protocol, chains in result.chains.items():
        returns = stack(chains)
        episodes = np.arange(1, returns.shape[1] + 1)
        single = {"s": 7, "alpha": 0.4, "color": _COLOURS[protocol], "linewidths": 0}
        axes.scatter(np.tile(episodes, len(returns)), returns, **single)
        labels.append(_draw_line(axes, episodes, [estimate(column) for column in returns.T], protocol))
    axes.set_xlim(0.5, max(stack(chains).shape[1] for chains in result.chains.values()) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(axis="y", left=False)
    axes.set_title(f"The policy: mean over chains ({len(returns)}), 95% interval and single episodes")
    axes.set_xlabel("episode of the chain")
    _set_return_limits(axes, result)
    _write_labels(axes, labels)
    return figure


def _plot_by_trajs(result: Result) -> Figure:
    """Two panels over the number of trajectories: the return of the last episode, and of the best."""
    figure = Figure(figsize=(9.4, 3.9))
    last, best = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.07, right=0.85, top=0.92, bottom=0.13, wspace=0.08)
    ticks = sorted({summary.trajs for summary in result.summaries})
    for axes, field in ((last, "last"), (best, "max")):
        labels = _draw_data_lines(axes, result.data)
        for protocol in result.chains:
            points = [summary for summary in result.summaries if summary.protocol == protocol]
            trajs = np.array([summary.trajs for summary in points])
            labels.append(_draw_line(axes, trajs, [getattr(one, field) for one in points], protocol, marker="o"))
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.set_xlabel("trajectories in context")
    last.set_title("Return of the last episode")
    last.set_ylabel("return")
    best.set_title("Best of all episodes so far")
    _set_return_limits(last, result)
    _write_labels(best, labels)
    return figure


def draw_training(
    losses: dict[str, np.ndarray], history: dict[int, Summary] | None = None, short_updates: int = 0
) -> bytes:
    """A PNG: the losses, and the returns where several updates were measured, a panel each, over the updates.

    short_updates: how many of them were on short windows, whose losses are others.
    """
    with matplotlib.rc_context(STYLE):
        return png(_plot_training(losses, history or {}, short_updates))


def _plot_training(losses: dict[str, np.ndarray], history: dict[int, Summary], short_updates: int) -> Figure:
    panels = bool(losses) + (len(history) > 1)
    figure = Figure(figsize=(9.4, 3.3 * panels))
    axes = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    figure.subplots_adjust(left=0.07, right=0.85, top=1 - 0.09 / panels, bottom=0.15 / panels, hspace=0.2)
    axes[-1].set_xlabel("update")
    labels = []
    if losses:
        labels.append(_draw_losses(axes[0], losses))
        if short_updates:
            axes[0].axvline(short_updates, color=GREY, linestyle=":", linewidth=1.5)
    if len(history) > 1:
        labels.append(_draw_history(axes[-1], history))
    for panel, names in zip(axes, labels, strict=True):
        _write_labels(panel, names)
    return figure


def _draw_losses(axes: Axes, losses: dict[str, np.ndarray]) -> list[_Label]:
    """Thin, every value; thick, a running mean over a fiftieth of them. A log axis where all are positive."""
    labels = []
    for (name, points), colour in zip(losses.items(), itertools.cycle(_LOSS_COLOURS), strict=False):
        steps, values = points.T
        window = max(1, len(values) // 50)
        smooth = np.convolve(values, np.full(window, 1 / window), "valid")
        if window > 1:
            axes.plot(steps, values, color=colour, linewidth=1, alpha=0.3)
        axes.plot(steps[window - 1 :], smooth, color=colour, marker="o" if len(values) < 20 else "")
        labels.append((float(smooth[-1]), name.replace("_", " "), colour))
    if all((points[:, 1] > 0).all() for points in losses.values()):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set_title("Loss")
    return labels


def _draw_history(axes: Axes, history: dict[int, Summary]) -> list[_Label]:
    updates = np.array(list(history))
    last, mean = [one.last for one in history.values()], [one.mean for one in history.values()]
    labels = [
        _draw_line(axes, updates, last, "own", marker="o", label="last episode"),
        _draw_line(axes, updates, mean, "own", marker="o", style=":", label="mean episode"),
    ]
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_title("Return with own episodes in context")
    return labels


def _draw_line(
    axes: Axes,
    x: np.ndarray,
    values: Sequence[Estimate],
    protocol: str,
    marker: str = "",
    style: str = "-",
    label: str | None = None,
) -> _Label:
    mean, margin = np.array(values).T
    colour = _COLOURS[protocol]
    axes.fill_between(x, mean - margin, mean + margin, color=colour, alpha=0.13, linewidth=0)
    axes.plot(x, mean, style, color=colour, marker=marker)
    return float(mean[-1]), label or _LABELS[protocol], colour


def _draw_data_lines(axes: Axes, data: np.ndarray) -> list[_Label]:
    labels = []
    for name, height in (("best in the data", float(data.max())), ("mean of the data", float(data.mean()))):
        axes.axhline(height, color=GREY, linewidth=1.2, linestyle=(0, (5, 4)), zorder=1)
        labels.append((height, f"{name}\n{height:.0f}", GREY))
    return labels


def _set_return_limits(axes: Axes, result: Result) -> None:
    returns = np.concatenate([result.data, *(stack(chains).ravel() for chains in result.chains.values())])
    low, high = min(0.0, float(returns.min())), max(0.0, float(returns.max()))
    axes.set_ylim(low, high + 0.06 * (high - low or 1.0))


def _write_labels(axes: Axes, labels: Sequence[_Label]) -> None:
    """Names at the right of the axes, in the colours of their lines, moved apart where lines end close."""
    labels = sorted(labels)
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [to_axes.transform((axes.get_xlim()[1], height))[1] for height, _, _ in labels]
    line_height = 18.0 / axes.get_window_extent().height
    sizes = [line_height * (1 + name.count("\n")) for _, name, _ in labels]
    gaps = [(below + above) / 2 for below, above in itertools.pairwise(sizes)]
    for y, (_, name, colour) in zip(_spread(wanted, gaps), labels, strict=True):
        axes.text(1.015, y, name, transform=axes.transAxes, color=colour, va="center", fontsize=9, linespacing=1.1)


def _spread(wanted: Sequence[float], gaps: Sequence[float]) -> np.ndarray:
    """Rising heights -> the nearest heights, in least squares, that keep the gaps between neighbours.

    Heights less the gaps below them must not fall: isotonic regression, by pooling adjacent violators.
    """
    below = np.concatenate([[0.0], np.cumsum(gaps)])
    pools: list[list[float]] = []
    for height in np.asarray(wanted) - below:
        pools.append([float(height)])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    return np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) + below


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()
