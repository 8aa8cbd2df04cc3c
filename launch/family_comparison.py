"""What the rows of families of tasks say, over training seeds: a table and figures for each cell."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from launch import family_plots
from launch.cells import differing
from launch.family_rows import LATE, PROTOCOL_NAMES, Point, read_points
from launch.intervals import Interval, draw_counts, of_mean
from launch.sections import Figure, Section, count, show, verdict

METHOD = (
    "Families of tasks: every held-out task is played from every start, by each training seed. Shown is the mean "
    "of these episodes, in which failures count, and in brackets its 95% bootstrap interval: episodes are drawn within "
    "seeds, and the seeds too where there are several. By seed: the mean of each. Off by: mean distance from the task. "
    "Of the way: from the perceptron that is not told the task (0) to the one that is (100). Above nothing: the mean "
    "difference against the transformer with nothing in its context, on the same task from the same start."
)
_CAPTION = (
    "Means and 95% intervals, over seeds, tasks and starts. Left, behind segments of the data; middle, "
    "behind own episodes; right, the held-out tasks one by one."
)


class Line(NamedTuple):
    """One way of acting, in one of its episodes, or in the late ones together."""

    label: str
    protocol: str
    segments: int
    returns: Interval
    by_seed: list[float]
    """Mean returns."""
    off: list[float]
    """Mean distance from the task, on each axis."""
    closed: float
    """Part of the way from the perceptron that is not told the task to the one that is; NaN without them."""
    gain: Interval | None
    """Above the same with nothing in the context; None for that itself, and without it."""


def lines(row: Mapping[str, Any]) -> list[Line]:
    """The table of a cell; own episodes one by one, and the late ones together."""
    points = read_points(row)
    seeds, *shape = points[0].returns.shape
    counts = draw_counts(seeds, math.prod(shape), np.random.default_rng(0))
    means = {point.protocol: float(point.returns.mean()) for point in points}
    start, end = means.get("not told", np.nan), means.get("told", np.nan)
    nothing = next((point for point in points if (point.protocol, point.segments) == ("data", 0)), None)
    tasks = np.array(row["tasks"]).T[:, None, :, None]
    found = []
    for label, of_label in _labelled(points):
        returns = np.mean([point.returns for point in of_label], axis=0)
        off = np.mean([np.abs(point.achieved - tasks) for point in of_label], axis=(0, 2, 3, 4))
        found.append(
            Line(
                label=label,
                protocol=of_label[0].protocol,
                segments=of_label[-1].segments,
                returns=of_mean(returns, counts),
                by_seed=returns.mean(axis=(1, 2)).tolist(),
                off=off.tolist(),
                closed=(float(returns.mean()) - start) / (end - start) if end != start else np.nan,
                gain=None if nothing is None or of_label[0] is nothing else of_mean(returns - nothing.returns, counts),
            )
        )
    return found


def _labelled(points: Sequence[Point]) -> list[tuple[str, list[Point]]]:
    """A label, and the points that it is the mean of."""
    own = [point for point in points if point.protocol == "own"]
    found = [
        (PROTOCOL_NAMES[point.protocol] + (f", episode {point.episode}" if point.protocol == "own" else ""), [point])
        for point in points
    ]
    if late := own[LATE:]:
        found.append((f"{PROTOCOL_NAMES['own']}, episodes {LATE + 1} to {len(own)}", late))
    return found


def sections(rows: Sequence[dict[str, Any]]) -> list[Section]:
    """A section for each cell."""
    found = []
    for env in dict.fromkeys(row["env"] for row in rows):
        cells = [row for row in rows if row["env"] == env and row["points"]]
        for row, words in zip(cells, differing([(row["typed"], row["flags"]) for row in cells]), strict=True):
            found.append(section(row, " ".join(words.values()), len(cells) > 1))
    return found


def section(row: dict[str, Any], label: str = "", several: bool = False) -> Section:
    """What a cell says; label: what tells it from others of its environment, where there are several."""
    table, several_seeds = lines(row), len(row["seeds"]) > 1
    by_seed = ["by seed"] * several_seeds
    axes = [f"{axis['name']} off by, {axis['unit']}" for axis in row["axes"]]
    return Section(
        title=f"{row['env']}, {label}" if label else row["env"],
        place=f"{row['env']}_{row['key']}" if several else row["env"],
        about=_about(row),
        headline=_headline(table),
        header=["in context", "segments", "return", *by_seed, *axes, "of the way %", "above nothing"],
        lines=[_cells(line, several_seeds) for line in table],
        kinds=[line.protocol.replace(" ", "-") for line in table],
        figures={"tasks": Figure(family_plots.draw(row), _CAPTION)},
        method=METHOD,
        estimate="mean",
        rows=[row],
    )


def _about(row: Mapping[str, Any]) -> str:
    names = " and ".join(axis["name"] for axis in row["axes"])
    tasks = ", ".join("/".join(f"{value:g}" for value in task) for task in row["tasks"])
    return (
        f"held-out {names} {tasks}; data set {row['dataset']}; {count([len(row['seeds'])], 'training seed')} x "
        f"{count([len(row['tasks'])], 'task')} x {count([row['starts']], 'start')}"
    )


def _headline(table: Sequence[Line]) -> list[str]:
    """What the most segments of the data change, what own episodes do, and what wrong labels do."""
    most = [[line for line in table if line.protocol == protocol][-1:] for protocol in ("data", "own", "wrong labels")]
    sentences = []
    for (line,) in filter(None, most):
        if line.gain is None:
            continue
        context = f"{line.label[0].upper()}{line.label[1:]} ({line.segments} segments)"
        way = "" if math.isnan(line.closed) else f", {100 * line.closed:.0f}% of the way from not told to told"
        gain = f"{show(line.gain, digits=0, sign=True)} against nothing in context"
        sure = "" if math.isnan(line.gain.low) else f"; the interval {verdict(line.gain)}"
        sentences.append(f"{context}: {show(line.returns, digits=0)}{way}, {gain}{sure}.")
    return sentences


def _cells(line: Line, several_seeds: bool) -> list[str]:
    return [
        line.label,
        str(line.segments),
        show(line.returns, digits=0),
        *[" / ".join(f"{mean:.0f}" for mean in line.by_seed)] * several_seeds,
        *(f"{value:.2f}" for value in line.off),
        "" if math.isnan(line.closed) else str(round(100 * line.closed)),
        "" if line.gain is None else show(line.gain, digits=0, sign=True),
    ]
