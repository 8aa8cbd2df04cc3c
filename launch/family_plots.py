"""The figure of a family's cell: returns by what is in the context, by own episode, and by task."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from launch.family_rows import LATE, PROTOCOL_NAMES, Point, read_points
from launch.intervals import Interval, draw_counts, of_mean
from launch.plots import GREY, INK, STYLE, png

_ENDS = {"told": (INK, "--"), "not told": (GREY, "--"), "wrong labels": ("#b4530a", ":")}
"""Colour and dashes of what is a height, not a line."""
_DATA, _NOTHING, _RULE, _OWN = "#0b6fb8", "#8ab8da", "#7a3e9d", "#5b8c3e"


def draw(row: Mapping[str, Any]) -> bytes:
    """A PNG of three panels."""
    points = read_points(row)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 4.4))
        left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=[1.1, 1.1, 1.2])
        figure.subplots_adjust(left=0.055, right=0.99, top=0.93, bottom=0.23, wspace=0.06)
        _draw_segments(left, points)
        _draw_own(middle, [point for point in points if point.protocol == "own"])
        for axes in (left, middle):
            _draw_ends(axes, points)
        _draw_tasks(right, points, row)
        left.set(ylabel="return of 1,000", ylim=(0, None))
        named = [axes.get_legend_handles_labels() for axes in (left, middle, right)]
        lines = {label: line for handles, labels in named for line, label in zip(handles, labels, strict=True)}
        figure.legend(lines.values(), lines.keys(), loc="lower center", ncols=4, frameon=False, fontsize=9)
        return png(figure)


def _draw_segments(axes: Axes, points: Sequence[Point]) -> None:
    """Returns over the number of segments, evenly spaced."""
    counts = [point.segments for point in points if point.protocol == "data"]
    for protocol, colour in (("data", _DATA), ("rule", _RULE)):
        found = [point for point in points if point.protocol == protocol and point.segments in counts]
        _draw_line(axes, [counts.index(point.segments) for point in found], found, colour, PROTOCOL_NAMES[protocol])
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set(title="Segments of the data in context", xlabel="segments")


def _draw_own(axes: Axes, own: Sequence[Point]) -> None:
    _draw_line(axes, [point.episode for point in own], own, _OWN, PROTOCOL_NAMES["own"])
    axes.set_xticks([point.episode for point in own])
    axes.set(title="Own episodes in context", xlabel="episode")


def _draw_line(axes: Axes, x: Sequence[int], points: Sequence[Point], colour: str, label: str) -> None:
    if points:
        value, low, high = np.array([_interval(point.returns) for point in points]).T
        axes.plot(x, value, marker="o", color=colour, label=label)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _draw_ends(axes: Axes, points: Sequence[Point]) -> None:
    for point in points:
        if point.protocol in _ENDS:
            colour, dashes = _ENDS[point.protocol]
            value, low, high = _interval(point.returns)
            label = "wrong labels" if point.protocol == "wrong labels" else PROTOCOL_NAMES[point.protocol]
            axes.axhline(value, color=colour, linestyle=dashes, linewidth=1.4, zorder=0.6, label=label)
            axes.axhspan(low, high, color=colour, alpha=0.07, linewidth=0, zorder=0.5)


def _draw_tasks(axes: Axes, points: Sequence[Point], row: Mapping[str, Any]) -> None:
    """Means of each task and their intervals, side by side: seeds and starts alone are drawn."""
    data = [point for point in points if point.protocol == "data"]
    own = [point for point in points if point.protocol == "own"]
    late = own[LATE:] or own[-1:]
    named = [
        ("told", [point for point in points if point.protocol == "told"], INK),
        ("not told", [point for point in points if point.protocol == "not told"], GREY),
        ("nothing", [point for point in data if not point.segments], _NOTHING),
        ("data", data[-1:], _DATA),
        ("own", late, _OWN),
    ]
    shown = [(name, of_name, colour) for name, of_name, colour in named if of_name]
    for k, (name, of_name, colour) in enumerate(shown):
        returns = np.mean([point.returns for point in of_name], axis=0)
        value, low, high = np.array([_interval(returns[:, task]) for task in range(returns.shape[1])]).T
        x = np.arange(len(value)) + (k - (len(shown) - 1) / 2) * 0.14
        label = "nothing in context" if name == "nothing" else None
        axes.vlines(x, low, high, color=colour, linewidth=3.5, alpha=0.35)
        axes.plot(x, value, "o", color=colour, markersize=5, label=label)
    tasks = ["/".join(f"{value:g}" for value in task) for task in row["tasks"]]
    axes.set_xticks(range(len(tasks)), tasks)
    what = [f"{data[-1].segments} segments"] if data else []
    what += [f"own {late[0].episode} to {late[-1].episode}"] if own else []
    axes.set(title=f"By task: {', '.join(what)}", xlabel=", ".join(f"{a['name']}, {a['unit']}" for a in row["axes"]))


def _interval(returns: np.ndarray) -> Interval:
    """[S, ...] -> the mean of all its numbers, and its interval; the same draws every time."""
    return of_mean(returns, draw_counts(len(returns), returns[0].size, np.random.default_rng(0)))
