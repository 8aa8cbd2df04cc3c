"""What loading an ExoRL data set leaves beside it: arrays that later loads map, and rewards of the tasks asked for.

    cache/meta.json                       which files, as they were, and a hash of the content of each
    cache/observations.npy, actions.npy   the rows of those files, one after another
    cache/rewards.<task>.<n>.<key>.npy    of the first n of them; the key is of their content, task, simulator and the
                                          code of the rewards

It holds the first episodes of the data set, and grows when more are asked for or collected. Each file in it is written
under another name and replaced, meta.json last, and never changed in place: others may have it mapped.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from data.trajectory import Trajectory

FORMAT = 2
ENVIRONMENTS = Path(__file__).parent.parent / "envs"
INLINE_STEPS = 20_000
"""Relabelling fewer steps than this takes less time than starting processes."""
JOB_EPISODES = 16
"""Most of one message to a process: enough to be worth it, few enough to keep all busy until the end."""

ARRAYS = ("observations", "actions")
HASHED = ("observation", "action", "physics")

RewardFn = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(physics [R, P] float64, actions [R, A] float32) -> rewards [R]: of having arrived in each state."""


class Source(NamedTuple):
    """Where rows come from; it must pickle."""

    name: str
    """The task."""
    columns: tuple[int, int]
    """Of observations and actions."""
    read: Callable[[Path, Sequence[str]], dict[str, np.ndarray]]
    """(file, keys; none is all) -> arrays of T + 1 rows as ExoRL stores them, checked."""
    reward_fn: RewardFn


class Job(NamedTuple):
    """Episodes in a row, for one process at a time."""

    files: Sequence[Path]
    row: int
    """Where their first step belongs."""
    whole: bool
    """Else only their rewards are wanted."""


def load(
    cache: Path, files: Sequence[Path], steps: Sequence[int], source: Source, workers: int
) -> tuple[list[Trajectory], str]:
    """The trajectories of `files`, of so many `steps` each, mapped from the cache, and a hash of what the files hold.

    What the cache lacks is made first.
    """
    ends = [0, *(int(end) for end in np.cumsum(steps))]
    stamps = [_stamp(path) for path in files]
    recorded, same = _recorded(cache, stamps, ends, source.columns)
    rewards, rewarded = _recorded_rewards(cache, source.name, recorded, ends[: same + 1])
    known = recorded[:same]
    if rewards is None or rewarded < len(files):
        jobs = list(_jobs(files, ends, rewarded, len(known), workers))
        known, rewards = _build(cache, stamps, ends, source, known, rewards, jobs, workers)
    columns = [_map(path)[: ends[-1]] for path in (*(cache / f"{key}.npy" for key in ARRAYS), rewards)]
    if min(map(len, columns)) < ends[-1]:
        raise ValueError(f"{cache}: another process put a smaller cache in its place meanwhile; load again")
    rows = zip(*(np.split(column, ends[1:-1]) for column in columns), strict=True)
    return [Trajectory(*each) for each in rows], combined(known[: len(files)])


def combined(digests: Sequence[str]) -> str:
    """One hash for many, in their order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _map(path: Path) -> np.ndarray:
    """A file's array, read when touched; a plain view, for np.memmap itself is slow to slice."""
    return np.asarray(np.load(path, mmap_mode="r"))


def _stamp(path: Path) -> list[Any]:
    """What a file must still be for the cache to stand for it."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def _recorded(
    cache: Path, stamps: list[list[Any]], ends: Sequence[int], columns: tuple[int, int]
) -> tuple[list[str], int]:
    """The hashes of the episodes in the cache, in order, and how many come before the first file that has changed."""
    try:
        meta = json.loads((cache / "meta.json").read_text())
        if meta["format"] != FORMAT or meta["columns"] != list(columns):
            return [], 0
        episodes = [(list(stamp), str(digest)) for *stamp, digest in meta["episodes"]]
        same = [now == then for now, (then, _) in zip(stamps, episodes, strict=False)]
        count = same.index(False) if False in same else len(episodes)
        for key, width in zip(ARRAYS, columns, strict=True):
            shape = _map(cache / f"{key}.npy").shape
            if shape[1:] != (width,) or shape[0] < ends[min(count, len(stamps))]:
                return [], 0
        return [digest for _, digest in episodes], count
    except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError, IndexError):
        return [], 0


def _recorded_rewards(cache: Path, name: str, recorded: list[str], ends: Sequence[int]) -> tuple[Path | None, int]:
    """The file with the rewards of most of the episodes that `ends` are of, and of how many; (None, 0) without one."""
    found: dict[int, Path] = {}
    for path in cache.glob(f"rewards.{name}.*.npy"):
        with contextlib.suppress(EOFError, ValueError):
            count = int(path.name.split(".")[-3])
            served = min(count, len(ends) - 1)
            made_here = count <= len(recorded) and path.name == rewards_name(name, recorded[:count])
            if served and made_here and len(_map(path)) >= ends[served]:
                found[served] = path
    return (found[max(found)], max(found)) if found else (None, 0)


def rewards_name(name: str, digests: Sequence[str]) -> str:
    """The file of the rewards of these episodes: another for other content, another simulator, or other code."""
    versions = []
    for package in ("mujoco", "dm_control", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    key = hashlib.sha256(json.dumps([FORMAT, combined(digests), name, versions, _code()]).encode()).hexdigest()[:16]
    return f"rewards.{name}.{len(digests)}.{key}.npy"


@functools.cache
def _code() -> str:
    """A hash of the environments' code, so that a reward that somebody edits is computed again."""
    return combined([path.read_text() for path in sorted(ENVIRONMENTS.rglob("*.py"))])


def _jobs(files: Sequence[Path], ends: Sequence[int], rewarded: int, known: int, workers: int) -> Iterator[Job]:
    """Those that lack rewards, then those that lack all."""
    size = max(1, min(JOB_EPISODES, (len(files) - rewarded) // (4 * workers)))
    for first, last, whole in ((rewarded, min(known, len(files)), False), (max(rewarded, known), len(files), True)):
        for start in range(first, last, size):
            yield Job(files[start : min(start + size, last)], ends[start], whole)


def _build(
    cache: Path,
    stamps: list[list[Any]],
    ends: Sequence[int],
    source: Source,
    known: list[str],
    rewards: Path | None,
    jobs: Sequence[Job],
    workers: int,
) -> tuple[list[str], Path]:
    """Do the jobs and put the files in their places -> the hashes of all episodes, and the file of their rewards."""
    _check_writable(cache)
    with _naming(cache), tempfile.TemporaryDirectory(dir=cache, prefix="building.") as building:
        folder = Path(building)
        _begin(folder / "rewards.npy", (ends[-1],), _map(rewards)[: jobs[0].row] if rewards else None)
        if grows := len(known) < len(stamps):
            row = ends[len(known)]
            for key, width in zip(ARRAYS, source.columns, strict=True):
                old = _map(cache / f"{key}.npy")[:row] if row else None
                _begin(folder / f"{key}.npy", (ends[-1], width), old)
        convert = functools.partial(_convert, source=source, folder=folder)
        known = known + _work(source.name, jobs, convert, ends[-1] - jobs[0].row, workers)
        for path in folder.iterdir():
            _sync(path)
        if grows:
            meta = cache / "meta.json"
            meta.unlink(missing_ok=True)
            for key in ARRAYS:
                os.replace(folder / f"{key}.npy", cache / f"{key}.npy")
            episodes = [[*stamp, digest] for stamp, digest in zip(stamps, known, strict=True)]
            content = {"format": FORMAT, "columns": source.columns, "episodes": episodes}
            (folder / "meta.json").write_text(json.dumps(content))
            _sync(folder / "meta.json")
            os.replace(folder / "meta.json", meta)
        target = cache / rewards_name(source.name, known[: len(stamps)])
        os.replace(folder / "rewards.npy", target)
    for old_file in cache.glob(f"rewards.{source.name}.*"):
        if old_file != target:
            old_file.unlink(missing_ok=True)
    return known, target


def _work(name: str, jobs: Sequence[Job], convert: Callable[[Job], list[str]], steps: int, workers: int) -> list[str]:
    """The hashes of all the jobs, in processes of their own where that is worth it."""
    digests: list[str] = []
    with contextlib.ExitStack() as stack:
        results: Iterable[list[str]] = map(convert, jobs)
        if steps > INLINE_STEPS and workers > 1:
            # Not fork: a copy of a process that runs JAX's threads can hang.
            spawn = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(jobs)), mp_context=spawn))
            results = pool.map(convert, jobs)
        total = sum(len(job.files) for job in jobs)
        bar = stack.enter_context(tqdm(total=total, desc=f"rewards of {name}", unit="episode", disable=None))
        for job, found in zip(jobs, results, strict=True):
            digests += found
            bar.update(len(job.files))
    return digests


def _convert(job: Job, *, source: Source, folder: Path) -> list[str]:
    """Write the rows of a job where they belong -> the hashes of its episodes, none where only rewards are wanted."""
    rows: dict[str, list[np.ndarray]] = {key: [] for key in (*ARRAYS * job.whole, "rewards")}
    digests = []
    for path in job.files:
        arrays = source.read(path, () if job.whole else ("action", "physics"))
        rows["rewards"].append(_relabel(path, arrays, source))
        if job.whole:
            rows["observations"].append(arrays["observation"][:-1])
            rows["actions"].append(np.clip(arrays["action"][1:], -1, 1))
            digests.append(digest(arrays))
    for key, parts in rows.items():
        with (folder / f"{key}.npy").open("r+b") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            file.seek(4 * job.row * math.prod(shape[1:]), os.SEEK_CUR)
            for part in parts:
                file.write(np.ascontiguousarray(part).data)
    return digests


def _relabel(path: Path, arrays: dict[str, np.ndarray], source: Source) -> np.ndarray:
    """The rewards [T] of one episode, float32; the row of the reset is dropped."""
    rewards = np.asarray(source.reward_fn(arrays["physics"], arrays["action"]), np.float32)
    if rewards.shape != arrays["action"].shape[:1] or not np.isfinite(rewards).all():
        raise ValueError(f"{path}: expected {len(arrays['action'])} finite rewards of {source.name}, got {rewards}")
    return rewards[1:]


def digest(arrays: dict[str, np.ndarray]) -> str:
    """Of what an episode holds: the same however it is stored."""
    digest = hashlib.sha256()
    for key in HASHED:
        digest.update(f"{key} {arrays[key].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[key]).data)
    return digest.hexdigest()


def _begin(path: Path, shape: tuple[int, ...], old: np.ndarray | None) -> None:
    """A float32 npy file of this shape, with its first rows; the others are written where they belong as they come.

    Writing into a memory-mapped file instead would end a process on a full disk by a signal, not by an error.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        if old is not None:
            file.write(old.data)


def _sync(path: Path) -> None:
    """Have a file on disk before its name is: else a loss of power could leave a whole file of zeros."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _check_writable(cache: Path) -> None:
    """Make the cache folder, or say at once that it cannot be written."""
    if not os.access(cache if cache.exists() else cache.parent, os.W_OK):
        raise PermissionError(
            f"{cache}: cannot be written, expected a data set folder with write access; "
            f"or make a folder of your own and link {cache.parent / 'buffer'} into it"
        )
    cache.mkdir(exist_ok=True)


@contextlib.contextmanager
def _naming(cache: Path) -> Iterator[None]:
    """An OSError that names no file names the cache."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(cache)) from error
        raise
