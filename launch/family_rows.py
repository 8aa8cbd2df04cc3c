"""The episodes of a family of tasks: the tasks.jsonl of a run, and the runs of a cell as one row of ablation.jsonl,
which is what each tasks.jsonl says, without what all lines share.

A point is what one way of acting came to in one of its episodes: the returns of every held-out task from every start,
of every training seed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from envs.family import Family
from launch.metrics import numbered, of_the_run, rounded, write_atomically

if TYPE_CHECKING:
    from launch.families import Lanes, Result

PROTOCOL_NAMES = {
    "told": "perceptron told the task",
    "not told": "perceptron not told",
    "rule": "perceptron told the best of the context",
    "data": "segments of the data",
    "wrong labels": "the same, labelled with another task",
    "own": "own episodes",
}
"""Ways of acting, as tables and figures call them."""
LATE = 4
"""Own episodes from the fifth on are summed up in one line."""
NEEDED = ("axes", "tasks", "starts", "points")
"""Fields of a row that are of families alone."""
_DIGITS_ACHIEVED = 4
"""Significant digits of a stored speed, height or place."""
_OF_EPISODE: dict[str, Any] = {
    "protocol": str,
    "segments": int,
    "task": list,
    "start": int,
    "episode": int,
    "return": int | float,
    "achieved": list,
}
"""What differs within an evaluation, and the type of it."""
_OF_EVALUATION: dict[str, Any] = {
    **dict.fromkeys(("env", "dataset", "dataset_hash", "command", "commit", "time"), str),
    "update": int,
    "ask": int | float,
    "versions": dict,
}

Key = tuple[str, int, int]
"""Protocol, segments in the context, and the number of the episode, from 1."""


class Point(NamedTuple):
    """One way of acting, in one of its episodes."""

    protocol: str
    segments: int
    episode: int
    returns: np.ndarray
    """[S, T, C]: seed, task, start."""
    achieved: np.ndarray
    """[G, S, T, C]: on each axis of the tasks."""


def episode_rows(results: "Sequence[Result]", lanes: "Lanes", shared: dict[str, Any]) -> list[dict[str, Any]]:
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


def is_family(row: Mapping[str, Any]) -> bool:
    """Whether a row of ablation.jsonl is of a family of tasks."""
    return "points" in row


def read_points(row: Mapping[str, Any]) -> list[Point]:
    """What a row holds of every way of acting."""
    arrays = ("returns", "achieved")
    return [Point(**point | {name: np.array(point[name], float) for name in arrays}) for point in row["points"]]


def check(row: Mapping[str, Any], where: str) -> None:
    """Raise ValueError, beginning with `where`, when a point lacks a seed, a task or a start."""
    shape = (len(row["seeds"]), len(row["tasks"]), row["starts"])
    for point in row["points"]:
        name = f"{where}: {point.get('protocol')}, {point.get('segments')} segments, episode {point.get('episode')}"
        for field, expected in (("returns", shape), ("achieved", (len(row["axes"]), *shape))):
            try:
                got = str(list(np.array(point.get(field), float).shape))
            except (TypeError, ValueError):
                got = "lists of several lengths"
            if got != str(list(expected)):
                raise ValueError(
                    f"{name}: expected {field} of (axes,) seeds, tasks, starts {list(expected)}, got {got}"
                )


def collect(
    family: Family, folders: Sequence[Path], *, by_the_run: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The newest line of each run's tasks.jsonl, and what a cell's row holds of all.

    by_the_run: whether what launch.evaluate played later is left out.

    Points are those that all seeds have, tasks the family's, starts as many as all seeds have. Raises ValueError for a
    file that is wrong, and for one whose newest evaluation lacks an episode.
    """
    evaluations = [read_newest(folder / "tasks.jsonl", by_the_run=by_the_run) for folder in folders]
    card = json.loads((folders[-1] / "dataset.json").read_text())["card"]
    newest = [rows[-1] | {"method": "AT", "target_return": rows[-1]["ask"]} for rows in evaluations]
    starts = min(1 + max(row["start"] for row in rows) for rows in evaluations)
    by_seed = [
        dict(_arrays(rows, family, starts, folder / "tasks.jsonl"))
        for folder, rows in zip(folders, evaluations, strict=True)
    ]
    shared = [key for key in by_seed[0] if all(key in found for found in by_seed)]
    points = []
    for key in shared:
        returns, achieved = (np.stack(parts, axis=-3) for parts in zip(*(found[key] for found in by_seed), strict=True))
        numbers = rounded(returns.tolist()), rounded(achieved.tolist(), _DIGITS_ACHIEVED)
        points.append(dict(zip(Point._fields, (*key, *numbers), strict=True)))
    return newest, {
        "data": {"best": card["return_max"], "mean": card["return_mean"], "episodes": card["episodes"]},
        "axes": [{"name": axis.name, "unit": axis.unit} for axis in family.axes],
        "tasks": [list(task) for task in family.held_out],
        "starts": starts,
        "points": points,
    }


def _arrays(
    rows: Sequence[Mapping[str, Any]], family: Family, starts: int, path: Path
) -> Iterator[tuple[Key, tuple[np.ndarray, np.ndarray]]]:
    """Of each point of an evaluation, returns [T, C] and what was achieved [G, T, C]."""
    found: dict[Key, dict[tuple[Any, ...], Mapping[str, Any]]] = {}
    for row in rows:
        key = row["protocol"], row["segments"], row["episode"]
        found.setdefault(key, {})[(*np.array(row["task"], np.float32).tolist(), row["start"])] = row
    tasks = np.array(family.held_out, np.float32).tolist()
    for key, episodes in found.items():
        try:
            lanes = [[episodes[(*task, start)] for start in range(starts)] for task in tasks]
        except KeyError as error:
            *task, start = error.args[0]
            raise ValueError(
                f"{path}: {key[0]}, {key[1]} segments, episode {key[2]}: expected every held-out task from {starts} "
                f"starts, task {task} from start {start} is missing; evaluate again"
            ) from None
        achieved = [[[row["achieved"][g] for row in of_task] for of_task in lanes] for g in range(len(family.axes))]
        yield key, (np.array([[row["return"] for row in of_task] for of_task in lanes]), np.array(achieved))


def read_newest(path: Path, *, by_the_run: bool = True) -> list[dict[str, Any]]:
    """The lines of the last evaluation in a tasks.jsonl, or the last of the run itself: those that share all but the
    episode with the last.

    Raises ValueError when there is none, and as read_episodes does.
    """
    rows = read_episodes(path)
    rows = of_the_run(rows) if by_the_run else rows
    if not rows:
        raise ValueError(f"{path}: expected a line for each episode, got none")
    return [row for row in rows if _evaluation(row) == _evaluation(rows[-1])]


def read_episodes(path: Path) -> list[dict[str, Any]]:
    """All lines of a tasks.jsonl.

    Raises ValueError, naming file and line, for what is no such line, and FileNotFoundError when there is no file.
    """
    rows = []
    for number, row in numbered(path):
        for name, kind in (_OF_EVALUATION | _OF_EPISODE).items():
            if not isinstance(row.get(name), kind):
                raise ValueError(f"{path}:{number}: expected an episode of a family, got {name} = {row.get(name)!r}")
        rows.append(row)
    return rows


def _evaluation(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _OF_EPISODE}
