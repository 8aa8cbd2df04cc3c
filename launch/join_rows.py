"""Rows of one cell that were measured at different times, as one: seeds that only the older holds stay in it.

So a sweep goes on from rows alone, where the folders of its runs are gone, and fewer --seeds than before lose nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from launch.comparison import of_returns, said
from launch.family_rows import is_family

Row = Mapping[str, Any]


def join(old: Row, new: Row) -> dict[str, Any]:
    """Both rows' seeds in order; a seed that both hold is the newer's, and so is what is not of a seed, but for the
    commits, versions and devices, of which both rows' stay.

    What one of them lacks (a protocol, the last chains or episodes, a point, a start) is left out: there are no gaps.
    Raises ValueError when they are of different data.
    """
    kept = [seed for seed in old["seeds"] if seed not in new["seeds"]]
    if not kept:
        return dict(new)
    for name in ("dataset_hash", "tasks"):
        if old.get(name) != new.get(name):
            raise ValueError(
                f"cell {new['key']}: expected {name} of seeds {new['seeds']} to be that of seeds {kept}, "
                f"{old.get(name)!r}, got {new.get(name)!r}; move the rows away, or choose another --out"
            )
    order = sorted((*kept, *new["seeds"]))
    sources = [(old, old["seeds"].index(seed)) if seed in kept else (new, new["seeds"].index(seed)) for seed in order]
    errors = [row["heldout_loss"] for row, _ in sources]
    seconds = [row["seconds"][i] for row, i in sources if len(row["seconds"]) == len(row["seeds"])]
    return {
        **new,
        "seeds": order,
        "heldout_loss": None if None in errors else float(np.mean(errors)),
        "seconds": seconds,
        **{name: said(old.get(name), new.get(name)) for name in ("commit", "backend", "dtype", "versions")},
        **(_points(old, new, sources) if is_family(new) else _returns(old, new, sources)),
    }


def _returns(old: Row, new: Row, sources: Sequence[tuple[Row, int]]) -> dict[str, Any]:
    """What is of the seeds of a single task."""
    found = {}
    for protocol in new["returns"]:
        if protocol in old["returns"]:
            parts = [np.array(row["returns"][protocol][i]) for row, i in sources]
            chains, episodes = np.min([part.shape for part in parts], axis=0)
            found[protocol] = np.stack([part[:chains, :episodes] for part in parts])
    return of_returns(found, new["data"]["best"], new["env"])


def _points(old: Row, new: Row, sources: Sequence[tuple[Row, int]]) -> dict[str, Any]:
    """What is of the seeds of a family: of each point returns [S][T][C] and what was achieved [G][S][T][C]."""

    def key(point: Row) -> tuple[Any, ...]:
        return point["protocol"], point["segments"], point["episode"]

    starts = min(old["starts"], new["starts"])
    of_old, of_new = ({key(point): point for point in row["points"]} for row in (old, new))
    points = []
    for each in (each for each in of_new if each in of_old):
        parts = [((of_old if row is old else of_new)[each], i) for row, i in sources]
        axes = range(len(new["axes"]))
        points.append(
            {
                **of_new[each],
                "returns": [_cut(point["returns"][i], starts) for point, i in parts],
                "achieved": [[_cut(point["achieved"][g][i], starts) for point, i in parts] for g in axes],
            }
        )
    return {"starts": starts, "points": points}


def _cut(tasks: Sequence[Sequence[float]], starts: int) -> list[list[float]]:
    return [list(of_task[:starts]) for of_task in tasks]
