"""What lies on disk, in all three formats, without loading it: a listing of ten thousand episodes takes no time.

Returns are of rewards that are there already: ExoRL's sets those of the tasks in their cache, D4RL's files and small
sets of Minari those they store.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import boundaries, d4rl, exorl, exorl_cache, minari
from data.hdf5 import Source

STORED = "stored"
"""In place of a task, where the file does not say of which its rewards are."""
MINARI_EPISODES = 2000
"""Sets of more are listed without returns: their rewards lie in as many places."""


class Held(NamedTuple):
    """A data set on disk."""

    name: str
    """As launch.datasets takes it."""
    path: Path
    bytes: int = 0
    """Without the cache."""
    episodes: int = 0
    steps: int = 0
    sha256: str = ""
    """Of the content, as in a card; empty until it has been loaded."""
    returns: Mapping[str, np.ndarray] = {}
    """Task -> the return of each episode, [N]."""
    problem: str = ""
    """Why it cannot be read; one line."""


def held(data_dir: Path, episode_lengths: Mapping[str, int]) -> list[Held]:
    """All data sets on disk, in each format by name.

    episode_lengths: of environments named after D4RL's files, the steps after which an episode is cut short.
    """
    return [*exorl_sets(data_dir), *d4rl_files(data_dir, episode_lengths), *minari_sets()]


def exorl_sets(data_dir: Path) -> Iterator[Held]:
    """The folders of ExoRL's format, collected here or downloaded."""
    for buffer in exorl.buffers(data_dir):
        folder = buffer.parent
        name = f"exorl/{folder.parent.name}/{folder.name}"
        try:
            if files := exorl.episode_files(buffer):
                size = sum(path.stat().st_size for path in files)
                steps = [int(path.stem.rpartition("_")[2]) for path in files]
                sha256, returns = _cached(folder / "cache", files, steps)
                yield Held(name, folder, size, len(files), sum(steps), sha256, returns)
        except (ValueError, OSError) as error:
            yield Held(name, folder, problem=str(error))


def d4rl_files(data_dir: Path, episode_lengths: Mapping[str, int]) -> Iterator[Held]:
    """D4RL's files, of each the first that is found; rewards and marks are read, not the observations."""
    for id in d4rl.URLS:
        path = d4rl.find(id, data_dir)
        if path is None:
            continue
        row = Held(f"d4rl/{id}", path, path.stat().st_size)
        try:
            returns, steps = _d4rl_returns(path, episode_lengths.get(id, 0))
            yield row._replace(episodes=len(returns), steps=steps, returns={id: returns} if len(returns) else {})
        except boundaries.UnknownEnds as error:
            yield row._replace(problem=f"{path}: {error}")
        except (ValueError, OSError) as error:
            yield row._replace(problem=str(error))


def minari_sets() -> Iterator[Held]:
    """Minari's local data sets."""
    for id in minari.list_local():
        try:
            found = minari.info(id)
            returns = _minari_returns(found.path, found.episodes) if found.format == "hdf5" else None
            known = {STORED: returns} if returns is not None else {}
            yield Held(f"minari/{id}", found.path, found.bytes, found.episodes, found.steps, returns=known)
        except (ValueError, OSError) as error:
            yield Held(f"minari/{id}", minari.root() / id, problem=str(error))


def _cached(cache: Path, files: Sequence[Path], steps: Sequence[int]) -> tuple[str, dict[str, np.ndarray]]:
    """The hash of these files, empty unless all are cached as they are; and the returns of the first, by task."""
    try:
        meta = json.loads((cache / "meta.json").read_text())
        if meta["format"] != exorl_cache.FORMAT:
            return "", {}
        known = []
        for path, (*stamp, digest) in zip(files, meta["episodes"], strict=False):
            stat = path.stat()
            if stamp != [path.name, stat.st_size, stat.st_mtime_ns]:
                break
            known.append(str(digest))
        returns = {}
        for path in sorted(cache.glob("rewards.*.npy")):
            _, task, number, *_ = path.name.split(".")
            count = int(number)
            if 0 < count <= len(known) and path.name == exorl_cache.rewards_name(task, known[:count]):
                starts = np.cumsum([0, *steps[: count - 1]])
                rewards = np.load(path, mmap_mode="r")[: sum(steps[:count])]
                returns[task] = np.add.reduceat(rewards, starts, dtype=np.float64)
        return exorl_cache.combined(known) if len(known) == len(files) else "", returns
    except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError, IndexError):
        return "", {}


def _d4rl_returns(path: Path, limit: int) -> tuple[np.ndarray, int]:
    """The return of each episode by the marks of the file, [N], and the steps of them all."""
    with Source(path) as source:
        columns = {}
        for key in ("rewards", "terminals", "timeouts"):
            if column := source.column(key):
                columns[key] = column.rows(0, column.shape[0]).reshape(-1)
    marks = (columns[key].astype(bool) if key in columns else None for key in ("terminals", "timeouts"))
    terminals, timeouts = marks
    if "rewards" not in columns or terminals is None:
        raise ValueError(f"{path}: rewards or terminals missing, expected a file in D4RL's layout")
    no_breaks = np.empty(0, int)
    spans = [*boundaries.spans(terminals, timeouts, lambda first, last: no_breaks, boundaries.Tally(limit))]
    totals = np.concatenate(([0.0], np.cumsum(columns["rewards"], dtype=np.float64)))
    first, last = (np.array([span[i] for span in spans], int) for i in (0, 1))
    return totals[last] - totals[first], int((last - first).sum())


def _minari_returns(folder: Path, episodes: int) -> np.ndarray | None:
    """The return of each episode, [N]; None where there are too many, or rewards of several tasks."""
    if episodes > MINARI_EPISODES:
        return None
    with Source(folder / "data" / "main_data.hdf5") as source:
        columns = [source.column(f"episode_{index}/rewards") for index in range(episodes)]
        if any(column is None or len(column.shape) != 1 for column in columns):
            return None
        return np.array([column.rows(0, column.shape[0]).sum(dtype=np.float64) for column in columns if column])
