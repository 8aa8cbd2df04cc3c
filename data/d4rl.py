"""D4RL's data sets on disk (Fu et al., arXiv:2004.07219): an HDF5 file each, the steps of all episodes end to end.

Row i of every array belongs to one step: the observation before it, the action, the reward, whether it ended the
episode (`terminals`) or the limit of time did (`timeouts`), and in files of v2 the observation after it
(`next_observations`). `infos/*` hold more; `metadata/*` is left alone. What makes an episode: data.boundaries.
"""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

import h5py
import numpy as np

from data import boundaries, hdf5_new
from data.boundaries import Tally
from data.episode import ROUNDING, Episode, Loaded, check
from data.hdf5 import AHEAD, Column, Source

_HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
_BODIES = ("halfcheetah", "hopper", "walker2d", "ant")
_POLICIES = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
_MAZES = {
    "umaze": "u-maze_noisy_multistart_False_multigoal_False",
    "umaze-diverse": "u-maze_noisy_multistart_True_multigoal_True",
    "medium-play": "big-maze_noisy_multistart_True_multigoal_False",
    "medium-diverse": "big-maze_noisy_multistart_True_multigoal_True",
    "large-play": "hardest-maze_noisy_multistart_True_multigoal_False",
    "large-diverse": "hardest-maze_noisy_multistart_True_multigoal_True",
}
URLS: dict[str, str] = {
    **{
        f"{body}-{policy}-v2": f"{_HOST}/gym_mujoco_v2/{body}_{policy.replace('-', '_')}-v2.hdf5"
        for body, policy in product(_BODIES, _POLICIES)
    },
    **{f"antmaze-{maze}-v0": f"{_HOST}/ant_maze_new/Ant_maze_{name}_sparse.hdf5" for maze, name in _MAZES.items()},
    **{f"antmaze-{maze}-v2": f"{_HOST}/ant_maze_v2/Ant_maze_{name}_sparse_fixed.hdf5" for maze, name in _MAZES.items()},
    "kitchen-complete-v0": f"{_HOST}/kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
    "kitchen-partial-v0": f"{_HOST}/kitchen/kitchen_microwave_kettle_light_slider-v0.hdf5",
    "kitchen-mixed-v0": f"{_HOST}/kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
}
"""Where D4RL keeps each data set (its infos.py). It publishes no checksums."""

MADE_WITH = {"mujoco": "2 (mujoco-py)"}
"""What D4RL's locomotion data were simulated with."""

DISAGREEMENT = 1e-3
"""How far two records of one observation may lie apart, relative where it is above 1. A reset moves it further."""

CHUNK = 2**18
"""Bytes of one array that are compressed and checked together."""

_CAVEATS = {
    ("antmaze-", "-v0"): "ends in antmaze v0 are known to be marked away from the resets (D4RL issue 77); use v2",
    ("kitchen-", ""): "rewards count each task at every step that it is done; scores count it once",
}

_KINDS = {
    "observations": ("f", 2),
    "next_observations": ("f", 2),
    "actions": ("f", 2),
    "rewards": ("fiu", 1),
    "terminals": ("fiub", 1),
    "timeouts": ("fiub", 1),
}
"""Of NumPy's dtypes, and how many dimensions. A column [N, 1] passes for [N], as in D4RL."""
_NEEDED = ("observations", "actions", "rewards", "terminals")


def file_name(name: str) -> str:
    """The name of a data set's file. Raises ValueError, listing the known data sets, for an unknown one."""
    if name not in URLS:
        raise ValueError(f"unknown D4RL data set {name!r}, expected one of: {', '.join(URLS)}")
    return URLS[name].rpartition("/")[2]


def folders(data_dir: Path) -> list[Path]:
    """Where files are looked for, in this order."""
    named = os.environ.get("D4RL_DATASET_DIR")
    return [data_dir, data_dir / "d4rl", *([Path(named)] if named else []), Path.home() / ".d4rl" / "datasets"]


def find(name: str, data_dir: Path) -> Path | None:
    """The file of a data set, or None where no folder has it. Raises ValueError for an unknown name."""
    paths = (folder / file_name(name) for folder in folders(data_dir))
    return next((path for path in paths if path.is_file()), None)


def read(path: Path, *, episode_length: int = 0) -> Iterator[Episode]:
    """The whole episodes of a file in turn, with what `infos` holds, read as they are asked for.

    `infos/x` becomes the extra `x`, [T, ...], or [T+1, ...] where the file has `infos/next_x` too.

    Args:
      episode_length: the steps after which the environment truncates an episode; 0: not known.

    Raises OSError when the file cannot be opened, ValueError, one line that begins with the file, when it cannot
    be read, an array is missing or amiss, or no episode is whole.
    """
    with Source(path) as source:
        for where, episode in _episodes(_Table(source, extras=True), Tally(episode_length)):
            check(where, episode)
            yield episode


def load(path: Path, *, name: str, observation_size: int, action_size: int, episode_length: int = 0) -> Loaded:
    """The whole episodes of a file as trajectories of the environment `name`, which expects the sizes.

    The hash is of the trajectories in turn, and of how each ended: the same however they are stored. Raises as `read`
    does, and ValueError where a size is wrong.
    """
    trajectories, digest, tally, clipped = [], hashlib.sha256(), Tally(episode_length), 0
    with Source(path) as source:
        for where, episode in _episodes(_Table(source, extras=False), tally):
            check(where, episode, name=name, observation_size=observation_size, action_size=action_size)
            clipped += int(np.count_nonzero(np.abs(episode.actions) > 1.0))
            with np.errstate(over="ignore"):
                trajectory = episode.trajectory()
            if not all(np.isfinite(values).all() for values in trajectory):
                raise ValueError(f"{where}: a number is too large for float32")
            trajectories.append(trajectory)
            digest.update(f"{episode.length} {episode.terminated}".encode())
            for values in trajectory:
                digest.update(values.tobytes())
    notes = tally.notes()
    if clipped:
        notes.append(f"{clipped} numbers in actions beyond [-1, 1], by {ROUNDING:g} at most: clipped")
    notes += [text for (start, end), text in _CAVEATS.items() if name.startswith(start) and name.endswith(end)]
    return Loaded(trajectories, digest.hexdigest(), notes)


def write(path: Path, episodes: Iterable[Episode]) -> None:
    """Write a file in D4RL's layout, atomically; a part of it is in memory at a time.

    Every episode has the same arrays, dtypes and columns. One that did not terminate is marked as timed out. An
    extra `x` goes to `infos/x`, with a row for every observation also to `infos/next_x`, as observations do.
    Unlike D4RL's own, the file has checksums of everything that is read of it (HDF5 1.10 or newer reads it).

    Raises ValueError when an episode is amiss, FileExistsError when the file is there, OSError with the file.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "is there already, expected a new file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with hdf5_new.create(temporary) as (file, check_disk):
            held: list[dict[str, np.ndarray]] = []
            steps = 0
            for number, episode in enumerate(episodes):
                where = f"{path}: episode {number}"
                check(where, episode)
                held.append(_columns(where, episode))
                _check_alike(where, held)
                steps += episode.length
                if steps >= AHEAD:
                    held, steps = _append(file, held), 0
                    check_disk()
            if not held:
                raise ValueError(f"{path}: no episodes to write, expected at least one")
            _append(file, held)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and Path(error.filename) != temporary:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


class _Table:
    """The arrays of a file, checked against one another; of N steps, only the marks are in memory."""

    def __init__(self, source: Source, extras: bool):
        """Raises ValueError when an array is missing, or is not what its name says."""
        self.path = source.path
        infos = [f"infos/{key}" for key in source.names("infos")] or ["infos"]  # kitchen's is an array
        found = {key: source.column(key) for key in (*_KINDS, *(infos if extras else []))}
        self.columns = {key: column for key, column in found.items() if column is not None}
        if missing := [key for key in _NEEDED if key not in self.columns]:
            raise ValueError(f"{self.path}: {' and '.join(missing)} missing, expected {', '.join(_NEEDED)}")
        self.steps = self.columns["actions"].shape[0]
        for key, column in self.columns.items():
            self._check(key, column)
        self.after = {key: self.columns.pop(_next(key)) for key in list(self.columns) if _next(key) in self.columns}
        """What followed the step, by the name of what was before it."""
        for key, column in self.after.items():
            if column.shape != self.columns[key].shape:
                expected = f"that of {key}, {self.columns[key].shape}"
                raise ValueError(f"{self.path}: {column.name} has shape {column.shape}, expected {expected}")
        self.terminals = self._marks("terminals")
        self.timeouts = self._marks("timeouts") if "timeouts" in self.columns else None

    def _check(self, key: str, column: Column) -> None:
        kinds, dimensions = _KINDS.get(key, ("fiub", len(column.shape)))
        shape = column.shape[:1] if dimensions == 1 and column.shape[1:] == (1,) else column.shape
        if shape[0] != self.steps or len(shape) != dimensions:
            expected = f"{self.steps} rows" + " of columns" * (dimensions == 2)
            raise ValueError(f"{self.path}: {key} has shape {column.shape}, expected {expected}")
        if column.dtype.kind not in kinds:
            raise ValueError(f"{self.path}: {key} is {column.dtype}, expected floating-point numbers")

    def _marks(self, key: str) -> np.ndarray:
        """[N] bool. Raises ValueError unless every number is 0 or 1."""
        values = self.columns[key].rows(0, self.steps).ravel()
        if values.dtype == bool:
            values = values.view(np.uint8)  # a damaged file can hold others
        if (wrong := np.flatnonzero(~np.isin(values, (0, 1)))).size:
            raise ValueError(f"{self.path}: {key} is {values[wrong[0]]} in row {wrong[0]}, expected 0 or 1")
        return values.astype(bool)

    def breaks(self, first: int, last: int) -> np.ndarray:
        """The rows strictly between that do not begin where the step before them arrived."""
        if "observations" not in self.after:
            return np.empty(0, np.int64)
        arrived = self.after["observations"].rows(first, last)
        if not (finite := np.isfinite(arrived).all(axis=1)).all():
            row = first + int(np.flatnonzero(~finite)[0])
            raise ValueError(f"{self.path}: next_observations is not finite in row {row}")
        following = self.columns["observations"].rows(first, last)[1:]
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
            apart = np.abs(arrived[:-1] - following) > DISAGREEMENT * np.maximum(1.0, np.abs(following))
        return np.flatnonzero(apart.any(axis=1)) + first + 1

    def episode(self, first: int, last: int) -> Episode:
        """Rows `first` to `last - 1`, and what followed the last of them."""
        rows = {key: column.rows(first, last) for key, column in self.columns.items()}
        for key, column in self.after.items():
            rows[key] = np.concatenate((rows[key], column.rows(last - 1, last)))
        extras = {key.removeprefix("infos/"): values for key, values in rows.items() if key.startswith("infos")}
        rewards = rows["rewards"].reshape(last - first)
        return Episode(rows["observations"], rows["actions"], rewards, bool(self.terminals[last - 1]), extras)


def _episodes(table: _Table, tally: Tally) -> Iterator[tuple[str, Episode]]:
    """Every whole episode, behind the words that name it in errors."""
    number = 0
    try:
        for first, last in boundaries.spans(table.terminals, table.timeouts, table.breaks, tally):
            number += 1
            yield f"{table.path}: rows {first} to {last - 1}", table.episode(first, last)
    except boundaries.UnknownEnds as error:
        raise ValueError(f"{table.path}: {error}") from error
    if not number:
        raise ValueError(f"{table.path}: no whole episode in {table.steps} steps; {'; '.join(tally.notes())}")


def _next(key: str) -> str:
    """The name of the array that holds what followed each step."""
    group, slash, name = key.rpartition("/")
    return f"{group}{slash}next_{name}"


def _columns(where: str, episode: Episode) -> dict[str, np.ndarray]:
    """The arrays of an episode as the file has them, a row for every step."""
    steps = episode.length
    if episode.rewards.ndim != 1:
        raise ValueError(f"{where}: rewards has shape {episode.rewards.shape}, expected one reward a step")
    columns = {"actions": episode.actions, "rewards": episode.rewards}
    extras = {f"infos/{key}": values for key, values in episode.extras.items()}
    for key, values in ({"observations": episode.observations} | extras).items():
        parts = {key: values[:steps]} | ({_next(key): values[1:]} if len(values) > steps else {})
        if taken := parts.keys() & columns.keys():
            raise ValueError(f"{where}: {', '.join(taken)} would be written twice, expected extras of other names")
        columns |= parts
    last = np.arange(steps) == steps - 1
    return columns | {"terminals": last & episode.terminated, "timeouts": last & (not episode.terminated)}


def _check_alike(where: str, held: list[dict[str, np.ndarray]]) -> None:
    """Raise ValueError unless the latest episode has the arrays of the first."""
    expected, got = ({key: (v.dtype, v.shape[1:]) for key, v in columns.items()} for columns in (held[0], held[-1]))
    if expected != got:
        different = ", ".join(sorted(key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key)))
        raise ValueError(f"{where}: other arrays, dtypes or columns than the episodes before it: {different}")


def _append(file: h5py.File, held: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Write the rows held at the end of every array; give back what to hold next: an episode of no rows, alike."""
    for key in held[0]:
        values = np.concatenate([columns[key] for columns in held])
        if key not in file:
            row = max(1, values.nbytes // len(values))
            settings = {"compression": "gzip", "shuffle": True, "fletcher32": True}
            chunks = (max(1, min(len(values), CHUNK // row)), *values.shape[1:])
            shape, most = ((rows, *values.shape[1:]) for rows in (0, None))
            file.create_dataset(key, shape, values.dtype, chunks=chunks, maxshape=most, **settings)
        first = len(file[key])
        file[key].resize(first + len(values), axis=0)
        file[key][first:] = values
    return [{key: values[:0] for key, values in held[0].items()}]
