"""Run what is missing of a sweep: several launch.train_offline side by side, each on cores of its own.

A run is done when its program has ended well and results of its last update are there; done.json then says so. What
was begun goes on with --resume, and so does what another cell has learned that differs in how it is played alone.
Programs end with this process, however it ends, so that none works unseen.
"""

import collections
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import envs
from envs.family import find as find_family
from launch.cells import NOT_A_CELL, Run, this_python
from launch.family_rows import read_episodes
from launch.metrics import of_the_run, read_metrics, read_rows, write_atomically
from launch.plan import DEFAULTS, read_stored

LOG = "log.txt"
GRACE = 60.0
"""Seconds that a program has to save when it is told to stop."""
ATTEMPTS = 3
"""Times that a run is begun or resumed, when what ends it is a signal: lack of memory kills, and may pass."""
PLAYED = ("chains", "prompt")
"""Flags of what is played once all is learned."""


class Failure(NamedTuple):
    """A run that did not come to its end."""

    run: Run
    reason: str
    tail: str
    """The last lines of its log."""


class _Work(NamedTuple):
    """A run that is being worked on."""

    run: Run
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    start: float
    attempt: int
    whole: bool
    """Whether it began from nothing, so that its time is that of the run."""


def split_cores(cores: Sequence[int], processes: int) -> list[list[int]]:
    """Cores for each process, as even as can be, none twice. Raises ValueError for more processes than cores."""
    if not 1 <= processes <= len(cores):
        raise ValueError(f"--processes: expected 1 to {len(cores)}, the cores there are, got {processes}")
    ends = [len(cores) * i // processes for i in range(processes + 1)]
    return [list(cores[a:b]) for a, b in itertools.pairwise(ends)]


def seconds_left(
    waiting: Sequence[Run],
    working: Sequence[tuple[Run, float]],
    finished: Sequence[tuple[Run, float]],
    processes: int,
) -> float | None:
    """Seconds until all is done: each run takes as long as others of its cell did, or as the mean of all.

    working: runs, and the seconds they have been at it. None before any run has finished.
    """
    if not finished:
        return None
    mean = sum(seconds for _, seconds in finished) / len(finished)

    def expected(run: Run) -> float:
        same = [seconds for other, seconds in finished if other.cell.key == run.cell.key]
        return sum(same) / len(same) if same else mean

    free = [max(0.0, expected(run) - spent) for run, spent in working]
    free += [0.0] * (processes - len(free))
    for run in waiting:
        first = min(range(len(free)), key=free.__getitem__)
        free[first] += expected(run)
    return max(free)


def words_for(seconds: float) -> str:
    """90 -> '1 min 30 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def is_complete(folder: Path) -> bool:
    """Whether the last update was measured; without a simulator, whether it was logged."""
    stored = read_stored(folder)
    if find_family(stored["env"]):
        path = folder / "tasks.jsonl"
        return path.is_file() and any(row["update"] == stored["updates"] for row in of_the_run(read_episodes(path)))
    if envs.spec(stored["env"]).simulator:
        path = folder / "results.jsonl"
        return path.is_file() and any(row["update"] == stored["updates"] for row in of_the_run(read_rows(path)))
    path = folder / "metrics.csv"
    return path.is_file() and any(row["step"] == stored["updates"] for row in read_metrics(path))


def take_over(run: Run) -> Path | None:
    """Copy what a run of another cell has learned into the folder of this one, where only what is played differs -> the
    other run's folder, if there is one.
    """
    kept = [name for name in run.cell.resolved if name not in (*NOT_A_CELL, *PLAYED)]
    for other in sorted(run.folder.parent.parent.glob(f"*/{run.folder.name}")):
        if other == run.folder or not all(
            (other / name).exists() for name in ("done.json", "checkpoints", "metrics.csv", "dataset.json")
        ):
            continue
        stored = DEFAULTS | read_stored(other)
        if any(stored[name] != run.cell.resolved[name] for name in (*kept, "data_dir")):
            continue
        part = run.folder / "checkpoints.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(other / "checkpoints", part)
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        part.rename(run.folder / "checkpoints")
        for name in ("metrics.csv", "dataset.json"):
            shutil.copy(other / name, run.folder)
        # Last, for it says that the run has begun.
        config = run.cell.resolved | {"seed": run.seed, "out": str(run.folder)}
        write_atomically(run.folder / "config.json", json.dumps(config, indent=2))
        return other
    return None


def log_tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log, indented."""
    text = path.read_bytes()[-20_000:].decode(errors="replace")
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


class Sweep:
    """Works off runs; `work` yields each run that is done, as it comes, and `failures` collects the others."""

    def __init__(self, runs: Sequence[Run], places: Sequence[Sequence[int]]) -> None:
        """places: the cores of each process; an empty list pins it to none."""
        self.failures: list[Failure] = []
        self._runs = runs
        self._waiting = collections.deque((run, 1) for run in runs if not run.done)
        self._places = places
        self._working: dict[int, _Work] = {}
        self._finished = [(run, s) for run in runs if run.done and (s := run.seconds()) is not None]
        self._loaded = {run.data for run in runs if (run.folder / "dataset.json").is_file()}

    def work(self) -> Iterator[Run]:
        """Run everything that is missing. When interrupted, tells the programs to save, and waits for them."""
        try:
            while self._waiting or self._working:
                self._fill()
                time.sleep(0.1)
                for place, work in list(self._working.items()):
                    if work.process.poll() is not None and self._ended(place, work):
                        yield work.run
                self._show()
        finally:
            self._stop()

    def _fill(self) -> None:
        for place in range(len(self._places)):
            if place not in self._working and (found := self._next()):
                self._working[place] = self._start(*found, self._places[place])

    def _next(self) -> tuple[Run, int] | None:
        """The first run that may start: of those whose data no run has loaded yet, which may have to be collected or
        relabelled first, only one at a time.
        """
        for work in self._working.values():
            if (work.run.folder / "dataset.json").is_file():
                self._loaded.add(work.run.data)
        loading = any(work.run.data not in self._loaded for work in self._working.values())
        for found in self._waiting:
            if found[0].data in self._loaded or not loading:
                self._waiting.remove(found)
                return found
        return None

    def _start(self, run: Run, attempt: int, cores: Sequence[int]) -> _Work:
        if not run.begun and (other := take_over(run)):
            self._say(f"{run.name}: plays what {other} has learned")
        whole = not run.begun
        run.folder.mkdir(parents=True, exist_ok=True)
        words = this_python(run.cell.command(run.seed, run.folder, resume=run.begun))
        log = (run.folder / LOG).open("ab")
        log.write(f"$ {' '.join(['python', *words[1:]])}\n".encode())
        log.flush()
        pinned = this_python(["-m", "launch.pinned", str(os.getpid()), ",".join(map(str, cores)), *words])
        process = subprocess.Popen(
            pinned, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        return _Work(run, process, log, time.monotonic(), attempt, whole)

    def _ended(self, place: int, work: _Work) -> bool:
        """Whether the run of a program that has ended is done."""
        del self._working[place]
        work.log.close()
        run, code, seconds = work.run, work.process.returncode, time.monotonic() - work.start
        if code == 0 and is_complete(run.folder):
            done: dict[str, Any] = {"seconds": seconds if work.whole else None, "processes": len(self._places)}
            write_atomically(run.folder / "done.json", json.dumps(done))
            if work.whole:
                self._finished.append((run, seconds))
            self._say(f"{run.name}: done in {words_for(seconds)}")
            return True
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == 0:
            reason = "it stopped before its last update was measured"
        if code < 0 and work.attempt < ATTEMPTS:
            self._waiting.append((run, work.attempt + 1))
            self._say(f"{run.name}: {reason}; it will go on from its last checkpoint")
            return False
        failure = Failure(run, reason, log_tail(run.folder / LOG))
        self.failures.append(failure)
        self._say(f"{run.name}: FAILED, {reason}; the end of {run.folder / LOG}:\n{failure.tail}")
        return False

    def _state(self) -> str:
        now = time.monotonic()
        working = [(work.run, now - work.start) for work in self._working.values()]
        left = seconds_left([run for run, _ in self._waiting], working, self._finished, len(self._places))
        failed = f", {len(self.failures)} failed" if self.failures else ""
        done = sum(run.done for run in self._runs)
        time_left = "time left known after the first" if left is None else f"about {words_for(left)} left"
        return f"{done} of {len(self._runs)} runs done{failed}, {len(working)} running, {time_left}"

    def _say(self, line: str) -> None:
        clear = "\r\033[K" if sys.stdout.isatty() else ""
        print(f"{clear}{line}\n{self._state()}", end="" if clear else "\n", flush=True)

    def _show(self) -> None:
        if sys.stdout.isatty():
            print(f"\r\033[K{self._state()}", end="", flush=True)

    def _stop(self) -> None:
        for work in self._working.values():
            work.process.terminate()
        until = time.monotonic() + GRACE
        for work in self._working.values():
            try:
                work.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(work.process.pid, signal.SIGKILL)
                work.process.wait()
            work.log.close()
        self._working.clear()
