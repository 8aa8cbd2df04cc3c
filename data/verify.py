"""Every file of a data set read to its last byte and checked, on all cores."""

import contextlib
import hashlib
import itertools
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data import catalog, d4rl, exorl, exorl_cache, fetch, minari, npz, unzip
from data.inventory import Held

JOB_EPISODES = 64
INLINE_FILES = 64
"""Fewer are checked before processes have started."""


class Expected(NamedTuple):
    """What is known of the data of an environment; a size of 0 is any."""

    name: str = ""
    observation: int = 0
    action: int = 0
    physics: int = 0
    episode_length: int = 0


class Report(NamedTuple):
    """What was found in a data set."""

    held: Held
    bad: list[str]
    """One line for each bad file, that begins with it."""
    sha256: str
    """Of the content, as in a card; empty where a file is bad."""
    notes: list[str]
    """What one should know all the same."""


class _Job(NamedTuple):
    """Files of one data set, for one process at a time."""

    set: int
    format: str
    paths: tuple[Path, ...]
    id: str
    expected: Expected


class _Result(NamedTuple):
    bad: list[str]
    digests: list[str]
    notes: list[str]


def verify(sets: Sequence[Held], expected: Mapping[str, Expected], workers: int) -> Iterator[Report]:
    """A report of each data set in turn, as soon as it is checked; progress is shown on a terminal.

    Args:
      expected: by domain for ExoRL's format, by name for D4RL's files; what is absent is checked for itself alone.
      workers: processes.
    """
    jobs = [job for index, found in enumerate(sets) for job in _jobs(index, found, expected)]
    files, share = sum(len(job.paths) for job in jobs), Counter(job.set for job in jobs)
    with contextlib.ExitStack() as stack:
        results: Iterable[_Result] = map(_check, jobs)
        if workers > 1 and len(jobs) > 1 and (files > INLINE_FILES or any(job.format != "exorl" for job in jobs)):
            # Not fork: a copy of a process that has threads can hang.
            spawn = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(jobs)), mp_context=spawn))
            results = pool.map(_check, jobs)
        bar = stack.enter_context(tqdm(total=files, desc="checking", unit="file", disable=None))
        done = zip(jobs, results, strict=True)
        for index, found in enumerate(sets):
            parts = []
            for job, result in itertools.islice(done, share[index]):
                parts.append(result)
                bar.update(len(job.paths))
            yield _report(found, parts)


def _jobs(index: int, found: Held, expected: Mapping[str, Expected]) -> Iterator[_Job]:
    """What is to be done for one data set; nothing where it could not even be listed."""
    format, _, id = found.name.partition("/")
    if found.problem:
        return
    if format != "exorl":
        yield _Job(index, format, (found.path,), id, expected.get(id, Expected()))
        return
    files = exorl.episode_files(found.path / "buffer")
    for start in range(0, len(files), JOB_EPISODES):
        paths = tuple(files[start : start + JOB_EPISODES])
        yield _Job(index, format, paths, id, expected.get(found.path.parent.name, Expected()))


def _check(job: _Job) -> _Result:
    """Do a job."""
    if job.format == "exorl":
        return _check_episodes(job.paths, job.expected)
    try:
        return _check_d4rl(job) if job.format == "d4rl" else _check_minari(job.id)
    except (ValueError, OSError) as error:
        return _Result([str(error)], [], [])


def _check_episodes(paths: Iterable[Path], expected: Expected) -> _Result:
    """ExoRL's files: the arrays that are used, and those that are not."""
    result = _Result([], [], [])
    sizes = exorl.Sizes(expected.observation, expected.action, expected.physics)
    for path in paths:
        try:
            arrays = exorl.read_episode(path, name=expected.name, sizes=sizes)
            archive = npz.Archive(path)
            for key in archive.keys:
                if key not in arrays:
                    archive.array(key)
            result.digests.append(exorl_cache.digest(arrays))
        except (ValueError, OSError) as error:
            result.bad.append(str(error))
    return result


def _check_d4rl(job: _Job) -> _Result:
    """A D4RL file: all that it holds, then what learning takes of it; and its own hash, where one lies beside it."""
    (path,) = job.paths
    known = fetch.recorded_sha256(path)
    if known:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != known:
            raise ValueError(f"{path}: sha256 is {found}, expected {known}; remove it, or fetch it again")
    length = job.expected.episode_length
    for _ in d4rl.read(path, episode_length=length):
        pass
    sizes = {"observation_size": job.expected.observation, "action_size": job.expected.action}
    loaded = d4rl.load(path, name=job.id, episode_length=length, **sizes)
    hashed = [f"sha256 of the file is as when it was fetched, {known}"] if known else []
    return _Result([], [loaded.sha256], loaded.notes + hashed)


def _check_minari(id: str) -> _Result:
    """A Minari set: all that it holds, then what learning takes of it."""
    if {episode.rewards.ndim for episode in minari.read(id)} - {1}:  # reads them all
        return _Result([], [], ["rewards of several tasks: learning computes one of them from the physics states"])
    loaded = minari.load(id, name=id, observation_size=0, action_size=0)
    return _Result([], [loaded.sha256], loaded.notes)


def _report(found: Held, parts: Sequence[_Result]) -> Report:
    """What the jobs of one data set found, together."""
    bad = [found.problem] * bool(found.problem) + [line for part in parts for line in part.bad]
    digests = [digest for part in parts for digest in part.digests]
    notes = [note for part in parts for note in part.notes]
    sha256 = ""
    if not found.name.startswith("exorl/"):
        sha256 = "".join(digests)
    elif parts:
        if (found.path / unzip.UNPACKING).exists():
            bad.append(f"{found.path}: not all of its archive is unpacked; fetch it again")
        if begun := catalog.unfinished(found.path):
            notes.append(f"collected in part, of {begun['episodes']} episodes; the same launch.collect goes on with it")
        _, more = exorl.usable_files(found.path / "buffer")
        notes += more
        sha256 = exorl_cache.combined(digests)
        if record := fetch.recorded(found.path):
            expected = int(record["episodes"])
            if found.episodes != expected:
                path = found.path / fetch.RECORD
                bad.append(f"{found.path}: {found.episodes:,} episodes, expected {expected:,}, as {path.name} says")
            notes.append(f"unpacked from {record['url']}, sha256 {record['sha256']}")
    return Report(found, bad, "" if bad else sha256, notes)
