"""ExoRL's data sets on disk (Yarats et al., arXiv 2201.13425): an npz per episode, relabelled when loaded.

A data set is a folder `<data_dir>/<domain>/<agent>` with `buffer/episode_<6 digits>_<T>.npz`. Every array has
T + 1 rows: row 0 is the reset (action and reward 0, discount 1), row t the action taken at observation t - 1,
then the reward, discount, observation and MuJoCo state that followed.

Loading leaves a `cache` folder beside `buffer`; it holds nothing of its own and may be deleted at any time.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from data.trajectory import Trajectory

DTYPES = {
    "observation": np.dtype(np.float32),
    "action": np.dtype(np.float32),
    "reward": np.dtype(np.float32),
    "discount": np.dtype(np.float32),
    "physics": np.dtype(np.float64),
}
EPISODE_NAME = re.compile(r"episode_(\d{6,})_([1-9]\d*)\.npz")
CACHE_FORMAT = 1
INLINE_STEPS = 20_000
"""Relabelling fewer steps than this takes less time than starting processes."""

RewardFn = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(physics [R, P] float64, actions [R, A] float32) -> rewards [R]: of having arrived in each state."""


class Sizes(NamedTuple):
    """The columns that an environment expects."""

    observation: int
    action: int
    physics: int


class Episodes(NamedTuple):
    """A loaded data set; the arrays of its trajectories are views of memory-mapped files."""

    trajectories: list[Trajectory]
    sha256: str
    """Of the observations, actions and physics of every episode in turn: the same however they are stored."""


def episode_files(buffer: Path) -> list[Path]:
    """The episodes of a buffer, in the order they were collected; empty when the folder is absent.

    Half-written episodes (`.tmp`) and other files are left out. Raises ValueError when two share an index.
    """
    if not buffer.is_dir():
        return []
    found: dict[int, Path] = {}
    for path in sorted(buffer.iterdir()):
        if match := EPISODE_NAME.fullmatch(path.name):
            other = found.setdefault(int(match[1]), path)
            if other != path:
                raise ValueError(f"{path}: expected one episode {int(match[1])}, got {other.name} too; remove one")
    return [found[index] for index in sorted(found)]


def write_episode(buffer: Path, index: int, arrays: dict[str, np.ndarray]) -> Path:
    """Write one finished episode, atomically: a reader or a crash sees all of it or nothing.

    arrays: observation [T+1, O], action [T+1, A], reward and discount [T+1] or [T+1, 1], physics [T+1, P].
    Raises ValueError when an array is amiss, FileExistsError when the index is taken, OSError with the file.
    """
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    for key in {"reward", "discount"} & arrays.keys():
        arrays[key] = arrays[key].reshape(len(arrays[key]), -1)  # ExoRL's own loaders expect a column
    length = len(arrays["observation"]) - 1 if "observation" in arrays else 0
    path = buffer / f"episode_{index:06d}_{length}.npz"
    _check_episode(path, arrays, length)
    if taken := next(buffer.glob(f"episode_{index:06d}_*.npz"), None):
        raise FileExistsError(f"{taken}: episode {index} is already there, expected an index that is free")
    buffer.mkdir(parents=True, exist_ok=True)
    with _replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def read_episode(path: Path, *, name: str = "", sizes: Sizes | None = None) -> dict[str, np.ndarray]:
    """The five arrays of an episode, T + 1 rows each, checked; keys that only some agents store are left out.

    `name` is the environment that expects the `sizes` (None: any). Raises ValueError, one line that begins
    with the file: it cannot be read, a key is missing, a dtype, a row count, a size or a value is wrong.
    """
    match = EPISODE_NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: not the name of an episode, expected episode_<6 digits>_<steps>.npz")
    if not zipfile.is_zipfile(path):  # np.load would take it for a pickle
        raise ValueError(f"{path}: truncated, or not an npz file; remove it, or fetch it again")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in DTYPES if key in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove it, or fetch it again") from error
    _check_episode(path, arrays, int(match[2]))
    for key, size in sizes._asdict().items() if sizes else ():
        if arrays[key].shape[1] != size:
            raise ValueError(f"{path}: {key} has {arrays[key].shape[1]} columns, {name} expects {size}")
    return arrays


def load(folder: Path, *, name: str, sizes: Sizes, reward_fn: RewardFn, workers: int) -> Episodes:
    """The episodes of a data set as trajectories of the environment `name`, in the order of collection.

    The first call checks every file, then relabels with `reward_fn` (it must pickle) in `workers` processes;
    later calls map the cache, until a file is added or changes. Rewards are cached per task and version of
    the simulator.

    Raises FileNotFoundError when there are no episodes, ValueError for a bad one, PermissionError when the
    cache cannot be written: then make a folder of your own and link the `buffer` into it.
    """
    buffer, cache = folder / "buffer", folder / "cache"
    files = episode_files(buffer)
    if not files:
        raise FileNotFoundError(f"{buffer}: no episodes, expected files named episode_<6 digits>_<steps>.npz")
    sha256 = _cached_sha256(cache, files, sizes) or _build_arrays(cache, files, name, sizes)
    rewards = cache / f"rewards.{name}.{_rewards_key(sha256, name)}.npy"
    if not rewards.exists():
        _build_rewards(rewards, files, name, sizes, reward_fn, workers)
    ends = np.cumsum([_steps(path) for path in files])[:-1]
    columns = [np.split(_map(path), ends) for path in (*_array_paths(cache), rewards)]
    return Episodes([Trajectory(*rows) for rows in zip(*columns, strict=True)], sha256)


def _check_episode(path: Path, arrays: dict[str, np.ndarray], length: int) -> None:
    """Raise ValueError unless the arrays are those of an episode of `length` steps."""
    for key, dtype in DTYPES.items():
        if key not in arrays:
            raise ValueError(f"{path}: {key} is missing, expected {', '.join(DTYPES)}; got {', '.join(arrays)}")
        values = arrays[key]
        if values.dtype != dtype:
            raise ValueError(f"{path}: {key} is {values.dtype}, expected {dtype}")
        if values.ndim == 0 or len(values) != length + 1 or length == 0:
            raise ValueError(f"{path}: {key} has shape {values.shape}, expected {length} steps and the reset row")
        if values.ndim > 2 or (values.ndim == 1 and key not in ("reward", "discount")):
            raise ValueError(f"{path}: {key} has shape {values.shape}, expected [rows, columns]")
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise ValueError(f"{path}: {key} is not finite in row {row}; remove the file, or fetch it again")


def _steps(path: Path) -> int:
    """The number of steps that an episode's name gives."""
    return int(path.stem.rpartition("_")[2])


def _array_paths(cache: Path) -> tuple[Path, Path]:
    return cache / "observations.npy", cache / "actions.npy"


def _map(path: Path) -> np.ndarray:
    """A file's array, read when touched; a plain view, for np.memmap itself is slow to slice."""
    return np.asarray(np.load(path, mmap_mode="r"))


def _identity(files: list[Path]) -> dict[str, Any]:
    """What a cache must have been made from to be used."""
    stats = [path.stat() for path in files]
    listing = [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in zip(files, stats, strict=True)]
    return {"format": CACHE_FORMAT, "files": listing}


def _cached_sha256(cache: Path, files: list[Path], sizes: Sizes) -> str | None:
    """The hash of the data set when the cache holds these very files, else None."""
    steps = sum(map(_steps, files))
    try:
        meta = json.loads((cache / "meta.json").read_text())
        shapes = [_map(path).shape for path in _array_paths(cache)]
        fresh = meta["identity"] == _identity(files) and meta["sizes"] == list(sizes)
        return meta["sha256"] if fresh and shapes == [(steps, sizes.observation), (steps, sizes.action)] else None
    except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError):
        return None


def _build_arrays(cache: Path, files: list[Path], name: str, sizes: Sizes) -> str:
    """Check every episode, write its observations and actions, and return the hash of them all.

    meta.json goes first and comes last: a cache left half-written is never taken for a whole one.
    """
    _check_writable(cache)
    meta, identity = cache / "meta.json", _identity(files)
    steps, digest = sum(map(_steps, files)), hashlib.sha256()
    with contextlib.ExitStack() as stack:
        observations, actions = (stack.enter_context(_replacing(path)) for path in _array_paths(cache))
        _write_header(observations, steps, sizes.observation)
        _write_header(actions, steps, sizes.action)
        for path in tqdm(files, desc=f"reading {cache.parent}", unit="episode", disable=None):
            arrays = read_episode(path, name=name, sizes=sizes)
            observations.write(arrays["observation"][:-1].tobytes())
            actions.write(arrays["action"][1:].tobytes())
            for key in ("observation", "action", "physics"):
                digest.update(f"{key} {arrays[key].shape}".encode())
                digest.update(arrays[key].tobytes())
        meta.unlink(missing_ok=True)
    content = {"identity": identity, "sizes": list(sizes), "sha256": digest.hexdigest()}
    with _replacing(meta) as file:
        file.write(json.dumps(content).encode())
    return digest.hexdigest()


def _rewards_key(sha256: str, name: str) -> str:
    """What the rewards of a task depend on, in 16 digits."""
    versions = []
    for package in ("mujoco", "dm_control", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return hashlib.sha256(json.dumps([CACHE_FORMAT, sha256, name, versions]).encode()).hexdigest()[:16]


def _build_rewards(path: Path, files: list[Path], name: str, sizes: Sizes, reward_fn: RewardFn, workers: int) -> None:
    """Relabel every episode and write the rewards, in place of those of an older data set or library."""
    _check_writable(path.parent)
    steps = sum(map(_steps, files))
    relabel = partial(_relabel, name=name, sizes=sizes, reward_fn=reward_fn)
    with contextlib.ExitStack() as stack:
        results: Iterable[np.ndarray] = map(relabel, files)
        if steps > INLINE_STEPS and workers > 1:
            # Not fork: a copy of a process that runs JAX's threads can hang.
            spawn = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn))
            results = pool.map(relabel, files, chunksize=max(1, min(16, len(files) // (4 * workers))))
        file = stack.enter_context(_replacing(path))
        _write_header(file, steps)
        progress = tqdm(results, total=len(files), desc=f"rewards of {name}", unit="episode", disable=None)
        for rewards in progress:
            file.write(rewards.tobytes())
    for old in path.parent.glob(f"rewards.{name}.*.npy"):
        if old != path:
            old.unlink()


def _relabel(path: Path, *, name: str, sizes: Sizes, reward_fn: RewardFn) -> np.ndarray:
    """The rewards [T] of one episode, float32; the row of the reset is dropped."""
    arrays = read_episode(path, name=name, sizes=sizes)
    rewards = np.asarray(reward_fn(arrays["physics"], arrays["action"]), np.float32)
    if rewards.shape != arrays["action"].shape[:1] or not np.isfinite(rewards).all():
        raise ValueError(f"{path}: expected {len(arrays['action'])} finite rewards of {name}, got {rewards}")
    return rewards[1:]


def _check_writable(cache: Path) -> None:
    """Make the cache folder, or say at once that it cannot be written."""
    if not os.access(cache if cache.exists() else cache.parent, os.W_OK):
        raise PermissionError(
            f"{cache}: cannot be written, expected a data set folder with write access; "
            f"or make a folder of your own and link {cache.parent / 'buffer'} into it"
        )
    cache.mkdir(exist_ok=True)


def _write_header(file: BinaryIO, *shape: int) -> None:
    """Begin a float32 npy file of a known shape; the rows follow as they come.

    Writing into a memory-mapped file instead would end a process on a full disk by a signal, not by an error.
    """
    description = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place, whole and on disk, when the block ends, and vanishes if it fails."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
