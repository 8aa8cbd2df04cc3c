"""What a family's evaluation says: rows on disk, a table, a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.family import Family
from launch import page as pages
from launch.metrics import write_atomically
from launch.sections import aligned
from launch.statistics import Estimate, estimate

if TYPE_CHECKING:
    from launch.families import Lanes, Result

WORDS = {
    "told": "perceptron told the task",
    "not told": "perceptron not told",
    "rule": "perceptron told the best of the context",
    "data": "segments of the data",
    "wrong labels": "the same, labelled with another task",
    "own": "own episodes",
}
LATE = 4
"""Own episodes from the fifth on are summed up in one line."""


def rows(results: "Sequence[Result]", lanes: "Lanes", shared: dict[str, Any]) -> list[dict[str, Any]]:
    """One row of tasks.jsonl per episode: what `shared` says of all, and where it was played, and what came of it."""
    return [
        shared
        | {
            "protocol": result.name,
            "segments": result.segments if result.name != "own" or episode else 0,
            "task": lanes.tasks[lane].tolist(),
            "start": int(lanes.starts[lane]),
            "episode": episode + 1,
            "return": float(result.returns[lane, episode]),
            "achieved": result.achieved[lane, episode].tolist(),
        }
        for result in results
        for lane in range(len(lanes.starts))
        for episode in range(result.returns.shape[1])
    ]


def append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add an evaluation to a tasks.jsonl in one move, so that none is ever there in part."""
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    write_atomically(path, before + "".join(json.dumps(row) + "\n" for row in rows))


def table(results: "Sequence[Result]", lanes: "Lanes", family: Family) -> str:
    """Means over all lanes with 95% intervals, how far the policy is off its task, and the part of the way from the
    perceptron that is not told the task to the one that is."""
    ends = {result.name: result.returns.mean() for result in results if result.name in ("told", "not told")}
    way = ends.get("told", np.nan) - ends.get("not told", np.nan)
    axes = [f"{axis.name} off by, {axis.unit}" for axis in family.axes]
    lines = [["in context", "segments", "return", *axes, "of the way %"]]
    for name, count, returns, achieved in lines_of(results):
        of_lane = estimate(returns.mean(axis=1))
        off = np.abs(achieved[..., :-1] - lanes.tasks[:, None]).mean((0, 1))
        closed = 100 * (of_lane.mean - ends.get("not told", np.nan)) / way
        lines.append([name, count, _show(of_lane), *(f"{value:.2f}" for value in off), f"{closed:.0f}"])
    tasks = ", ".join("/".join(f"{value:g}" for value in task) for task in family.held_out)
    names = " and ".join(axis.name for axis in family.axes)
    head = f"{family.name}: held-out {names} {tasks}; {len(lanes.starts)} episodes a line"
    return "\n".join([head, *aligned(lines, "<>")])


def lines_of(results: "Sequence[Result]") -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """-> label, segments, returns and achieved of each line; own episodes one by one, and the late ones together."""
    lines = []
    for result in results:
        label, count = WORDS[result.name], str(result.segments)
        if result.name != "own":
            lines.append((label, count, result.returns, result.achieved))
            continue
        for episode in range(result.returns.shape[1]):
            part = slice(episode, episode + 1)
            number = count if episode else "0"
            lines.append((f"{label}, episode {episode + 1}", number, result.returns[:, part], result.achieved[:, part]))
        if result.returns.shape[1] > LATE:
            name = f"{label}, episodes {LATE + 1} to {result.returns.shape[1]}"
            lines.append((name, count, result.returns[:, LATE:], result.achieved[:, LATE:]))
    return lines


def picture(results: "Sequence[Result]", lanes: "Lanes", family: Family, path: Path) -> None:
    """A PNG: returns over segments in context and over own episodes, and what was achieved against what was asked."""
    import matplotlib
    from matplotlib.figure import Figure

    from launch import plots

    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(12, 4))
        left, middle, right = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
        figure.subplots_adjust(left=0.06, right=0.98, top=0.9, bottom=0.14, wspace=0.22)
        _draw_prompts(left, results)
        for result in results:
            if result.name == "own":
                _line(middle, range(1, result.returns.shape[1] + 1), result.returns, OWN, WORDS["own"])
        middle.set(title="Own episodes in context", xlabel="episode")
        for axes in (left, middle):
            axes.set_ylim(0, 1000)
            for result in results:
                if result.name in CONTROLS:
                    height = result.returns.mean()
                    axes.axhline(height, color=EMPTY, linewidth=1, linestyle="--", zorder=0.5)
                    place: dict[str, Any] = {"ha": "right", "fontsize": 8, "transform": axes.get_yaxis_transform()}
                    axes.text(0.99, height + 8, CONTROLS[result.name], **place)
        _draw_achieved(right, results, lanes, family)
        write_atomically(path, plots.png(figure))


def page(table: str, picture: Path, rollout: Sequence[str]) -> str:
    """The table, its picture and the figure of a rollout, if there is one, in one file that needs no other."""
    title, *_ = table.splitlines()
    caption = "Mean returns with 95% intervals, and the speeds, heights or places achieved."
    figure = pages.figure(picture.read_bytes(), "png", caption)
    return pages.document(title, [pages.element("h1", title), figure, *rollout, pages.element("pre", table)])


CONTROLS = {"told": "perceptron told the task", "not told": "perceptron not told", "wrong labels": "wrong labels"}
DATA, RULE, OWN, EMPTY = "#0b6fb8", "#7a3e9d", "#5b8c3e", "#8a929b"


def _draw_prompts(axes: Any, results: "Sequence[Result]") -> None:
    """Returns over the number of segments, evenly spaced."""
    counts = [result.segments for result in results if result.name == "data"]
    for name, colour in (("data", DATA), ("rule", RULE)):
        found = [result for result in results if result.name == name]
        if not found:  # no rule without segments to judge by
            continue
        returns = np.stack([result.returns[:, 0] for result in found], axis=1)
        _line(axes, [counts.index(result.segments) for result in found], returns, colour, WORDS[name])
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set(title="Segments of the data in context", xlabel="segments", ylabel="return of 1,000")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _draw_achieved(axes: Any, results: "Sequence[Result]", lanes: "Lanes", family: Family) -> None:
    """What every episode achieved on the first axis of its task."""
    axis, data = family.axes[0], [result for result in results if result.name == "data"]
    for result, colour in ((data[0], EMPTY), (data[-1], DATA)):
        label = f"{result.segments} segments"
        axes.scatter(lanes.tasks[:, 0], result.achieved[:, 0, 0], s=14, color=colour, label=label)
    axes.plot([axis.low, axis.high], [axis.low, axis.high], color=EMPTY, linewidth=1)
    name = f"{axis.name}, {axis.unit}"
    axes.set(title="Achieved against asked", xlabel=f"task: {name}", ylabel=name)
    axes.legend(frameon=False, fontsize=8)


def _line(axes: Any, x: Sequence[int], returns: np.ndarray, colour: str, label: str) -> None:
    """[lanes, points]: means and their 95% intervals."""
    ends = [estimate(column) for column in returns.T]
    mean, margin = (np.array([getattr(end, name) for end in ends]) for name in ("mean", "margin"))
    axes.plot(list(x), mean, marker="o", color=colour, label=label)
    axes.fill_between(list(x), mean - margin, mean + margin, color=colour, alpha=0.15, linewidth=0)


def _show(value: Estimate) -> str:
    return f"{value.mean:.0f} +- {value.margin:.0f}"
