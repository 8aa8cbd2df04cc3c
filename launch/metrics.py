"""What a run measures, on disk: metrics.csv along training, results.jsonl with one row per evaluated episode.

A program killed at any moment leaves whole lines behind it: files are replaced in one move, or grow by whole
lines and the torn last one is dropped by the next reader.
"""

import csv
import datetime
import importlib.metadata
import io
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboardX import SummaryWriter

from launch.plan import PROTOCOLS

_PACKAGES = ("agentic-bpt", "jax", "optax", "orbax-checkpoint", "mujoco", "dm_control", "gymnasium", "numpy")
_DIGITS = 6
"""Significant digits of a stored return: beyond them lies rounding of float32 rewards."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file in one move: a reader, or a kill, sees the old file or the new one, never a part."""
    content = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, without their empty cells; a torn last line is left out.

    Raises:
        ValueError: a line that is not one number, or nothing, per column.
    """
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    reader = csv.reader(lines)
    columns = next(reader, ["step"])
    rows = []
    for cells in reader:
        try:
            row = {name: float(cell) for name, cell in zip(columns, cells, strict=True) if cell}
            rows.append(row | {"step": int(row["step"])})
        except (KeyError, ValueError):
            raise ValueError(
                f"{path}:{reader.line_num}: expected a step and {len(columns) - 1} more cells, numbers or "
                f"empty, got {','.join(cells)!r}; delete the line"
            ) from None
    return rows


class Metrics:
    """Writes the numbers of a training run to out/metrics.csv, out/tensorboard and, when asked, to W&B.

    The first row logged, at step s, drops the rows from s on that an earlier process left in metrics.csv:
    what is computed again is written again, and the file of a resumed run equals that of an unbroken one.

    Args:
        out: the folder of the run, made if absent.
        wandb: whether to send the numbers to Weights & Biases too.
        config: what W&B stores beside them.

    Raises:
        ModuleNotFoundError: W&B was asked for and is not installed.
        ValueError: a metrics.csv that cannot be read.
    """

    def __init__(self, out: Path, wandb: bool, config: dict[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out = out
        self._csv = out / "metrics.csv"
        self._rows = read_metrics(self._csv) if self._csv.exists() else []
        self._columns = ["step"]
        self._tensorboard: SummaryWriter | None = None
        shown = {"project": "agentic-bpt", "name": out.name, "dir": out, "config": config, "resume": "auto"}
        self._wandb = require_wandb().init(**shown) if wandb else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars at a step; a second call at the same step fills the same row, new names add columns.

        Raises:
            ValueError: a step before the last one that this process logged.
        """
        numbers = {name: float(value) for name, value in values.items()}
        if self._tensorboard is None:
            self._rows = [row for row in self._rows if row["step"] < step]
            self._columns = list(dict.fromkeys(name for row in self._rows for name in row)) or ["step"]
            self._tensorboard = SummaryWriter(str(self._out / "tensorboard"), purge_step=step, flush_secs=10)
            write_atomically(self._csv, self._text(self._rows, header=True))
        self._add_row(step, numbers)
        for name, number in numbers.items():
            self._tensorboard.add_scalar(name, number, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def _add_row(self, step: int, numbers: dict[str, float]) -> None:
        last = self._rows[-1]["step"] if self._rows else -1
        if step < last:
            raise ValueError(f"step {step} logged after step {last}, expected steps to rise")
        new = [name for name in numbers if name not in self._columns]
        self._columns += new
        if step == last:
            self._rows[-1].update(numbers)
        else:
            self._rows.append({"step": step, **numbers})
        if new or step == last:
            write_atomically(self._csv, self._text(self._rows, header=True))
        else:
            with self._csv.open("a", encoding="utf-8") as file:
                file.write(self._text(self._rows[-1:]))

    def _text(self, rows: Sequence[Mapping[str, float]], header: bool = False) -> str:
        """Lines of the file; repr keeps every bit of a float."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows({name: repr(number) for name, number in row.items()} for row in rows)
        return text.getvalue()


def require_wandb() -> Any:
    """The `wandb` package. Raises ModuleNotFoundError, with the remedy."""
    try:
        import wandb
    except ModuleNotFoundError as error:
        if error.name != "wandb":
            raise
        raise ModuleNotFoundError(
            "--wandb needs the package wandb, which is not installed: pip install 'agentic-bpt[wandb]'"
        ) from None
    return wandb


def provenance() -> dict[str, Any]:
    """What it takes to measure again: command, commit ("-dirty" when changed), versions, UTC time."""
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    """The commit of the sources that run, or "unknown" where they are no git work tree."""
    source = Path(__file__).resolve()
    git = ["git", "--no-optional-locks", "-C", str(source.parent)]
    try:
        # A copy installed below somebody else's work tree is not tracked there, and must not take its commit.
        subprocess.run([*git, "ls-files", "--error-unmatch", source.name], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def version(package: str) -> str:
    """Of an installed package; "not installed" where it is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_Check = tuple[str, Callable[[Any], bool]]
_TEXT: _Check = ("text", lambda value: isinstance(value, str))
_NUMBER: _Check = ("a finite number", _is_number)
_COUNT: _Check = ("a whole number, at least 0", _is_count)
_POSITIVE: _Check = ("a whole number, at least 1", lambda value: _is_count(value) and value > 0)
_FIELDS: dict[str, _Check] = {
    "env": _TEXT,
    "dataset": _TEXT,
    "dataset_hash": _TEXT,
    "seed": _COUNT,
    "method": _TEXT,
    "protocol": (f"one of {', '.join(PROTOCOLS)}", lambda value: value in PROTOCOLS),
    "trajs": _COUNT,
    "chain": _COUNT,
    "episode": _POSITIVE,
    "return": _NUMBER,
    "score": ("a finite number or null", lambda value: value is None or _is_number(value)),
    "length": _POSITIVE,
    "target_return": _NUMBER,
    "update": _COUNT,
    "command": _TEXT,
    "commit": _TEXT,
    "versions": ("an object", lambda value: isinstance(value, dict)),
    "time": _TEXT,
}


def _check_row(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {row!r}")
    for field, (expected, holds) in _FIELDS.items():
        if field not in row:
            raise ValueError(f"{where}: {field} is missing, expected {expected}")
        if not holds(row[field]):
            raise ValueError(f"{where}: {field} is {row[field]!r}, expected {expected}")


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds measurements, one episode of one chain each, to a results.jsonl; none of them when one is wrong.

    Fields of a row, all of them required:
        env, dataset, dataset_hash, method: text. seed, update: the training seed, and the updates done.
        protocol: of PROTOCOLS.
        trajs: --trajs, of methods without a context the episodes of a chain. chain: from 0. episode: from 1.
        return, length, target_return: environment units, steps, and the return asked for.
        score: envs.scores.normalised_score of the return, or None.
        command, commit, versions, time: provenance(), the same for all rows of one measurement.

    Raises:
        ValueError: a row with a missing or wrong field.
    """
    for number, row in enumerate(rows, start=1):
        _check_row(row, f"{path}: new row {number}")
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    with path.open("ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def of_the_run(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what launch.evaluate played in a run's folder: other initial states, another target, other chains."""
    return [row for row in rows if "launch.evaluate" not in row["command"]]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The measurements of a results.jsonl, in their order; a torn last line is dropped with a warning.

    Raises:
        ValueError: a line with a missing or wrong field, or no JSON: file, line, field, expected and got.
    """
    *lines, torn = path.read_text(encoding="utf-8").split("\n")
    if torn:
        warnings.warn(f"{path}:{len(lines) + 1}: dropped a last line that is not whole", stacklevel=2)
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: expected one JSON object, got {line[:40]!r}: {error}") from None
        _check_row(row, f"{path}:{number}")
        rows.append(row)
    return rows


def numbered(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the object of each line; an empty one for what is no object. Raises ValueError for no JSON."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: expected a JSON object: {error}") from None
        yield number, row if isinstance(row, dict) else {}


def rounded(values: Any, digits: int = _DIGITS) -> Any:
    """Numbers in nested lists, for JSON; null where there is no number."""
    if isinstance(values, list):
        return [rounded(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if math.isfinite(values) else None
