"""What a sweep consists of: cells, each the flags of one launch.train_offline, and for each training seed a run.

Two cells are the same when their flags come out the same, whatever was typed and what a preset filled in. A cell's
name on disk ends in a hash of those that differ from their defaults, so that a new flag leaves old cells as they are.
"""

import csv
import hashlib
import itertools
import json
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from launch import config_flags
from launch.plan import DEFAULTS, auto_preset, fill_preset, read_plan, read_stored

NOT_A_CELL = ("out", "seed", "data_dir", "save_every", "log_every", "wandb")
"""Flags that change nothing in what is measured, and the seed, of which a cell has several."""


class Cell(NamedTuple):
    """One setting of the flags of train_offline."""

    typed: dict[str, str]
    """As given, the preset included."""
    resolved: dict[str, Any]
    """Every flag but the seed and the folder, with the preset and the defaults filled in."""
    key: str
    """Hash of the resolved flags that differ from their defaults."""
    label: str = ""
    """The flags in which it differs from the other cells of its sweep."""

    def command(self, seed: int, out: Path, resume: bool = False) -> list[str]:
        """The program and its flags."""
        typed = [f"--{name}={value}" for name, value in self.typed.items()]
        end = ["--resume"] if resume else []
        return ["-m", "launch.train_offline", *typed, f"--seed={seed}", f"--out={out}", *end]

    def check(self, stored: dict[str, Any], where: str, way_out: str) -> None:
        """Raise ValueError where something stored was measured under other flags, as before a default was changed."""
        names = [name for name in stored if name not in NOT_A_CELL]
        if different := config_flags.changed(stored, self.resolved, names):
            raise ValueError(f"{where}: {'; '.join(different)}; {way_out}, or choose another --out")

    def sweep_command(self, seeds: Sequence[int]) -> str:
        """A command that measures this cell again, in a folder of its own."""
        typed = [f"--{name}={_quoted(value)}" for name, value in self.typed.items()]
        numbers = ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")
        words = ["python", "-m", "launch.ablate", *typed, f"--seeds={numbers}", f"--out=runs/again-{self.key}"]
        return shlex.join(words)


class Run(NamedTuple):
    """One training seed of a cell."""

    cell: Cell
    seed: int
    folder: Path
    stored: bool = False
    """Whether a row holds it; its folder may be gone then."""

    @property
    def name(self) -> str:
        return f"{self.cell.label} seed {self.seed}"

    @property
    def ended(self) -> bool:
        """Whether its folder has all of it."""
        return (self.folder / "done.json").is_file()

    @property
    def done(self) -> bool:
        return self.ended or (self.stored and not self.begun)

    @property
    def begun(self) -> bool:
        return (self.folder / "config.json").is_file()

    @property
    def data(self) -> tuple[Any, ...]:
        """What it trains on: runs with the same read the same files."""
        return tuple(self.cell.resolved[name] for name in ("env", "dataset", "max_steps"))

    def seconds(self) -> float | None:
        """How long it took, where it is done and was never interrupted."""
        return json.loads((self.folder / "done.json").read_text())["seconds"] if self.ended else None

    def check(self) -> None:
        """Raise ValueError when the folder holds a run under other flags, as after a changed default."""
        if self.begun:
            self.cell.check(read_stored(self.folder), f"{self.folder}", "delete the folder")


def known_flags() -> tuple[str, ...]:
    """The flags of train_offline that a sweep may set."""
    return ("preset", *(name for name in DEFAULTS if name != "out"))


def split_arguments(arguments: Sequence[str], own: set[str]) -> tuple[list[str], dict[str, str]]:
    """Command line -> what this program reads itself, and the flags of train_offline with their texts.

    A value follows `=` or a space; a switch may stand alone or begin with `no`. Raises ValueError for an unknown flag,
    listing the known ones, and for a flag without value.
    """
    rest, swept, known = [], {}, known_flags()
    words = iter(enumerate(arguments))
    for i, word in words:
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name in own or name.removeprefix("no") in own:
            rest.append(word)
            continue
        if name not in known and name.removeprefix("no") in known:
            name, equals, value = name.removeprefix("no"), "=", "false"
        if name not in known:
            raise ValueError(f"--{name}: expected a flag of launch.ablate or of train_offline: {', '.join(known)}")
        if not equals:
            following = arguments[i + 1] if i + 1 < len(arguments) else "--"
            if following.startswith("--"):
                if not flags.FLAGS[name].boolean:
                    raise ValueError(f"--{name}: expected a value, or several between commas")
                following = "true"
            else:
                next(words)
            value = following
        swept[name] = value
    return rest, swept


def values(name: str, text: str) -> list[str]:
    """'1,4,8' -> ['1', '4', '8']; a value that holds a comma stands in double quotes, as in a CSV file."""
    found = next(csv.reader([text], skipinitialspace=True)) or [""]
    if len(found) > 1 and name in NOT_A_CELL:
        raise ValueError(f"--{name}: expected one value, since it changes nothing that is measured, got {text!r}")
    return found


def _quoted(value: str) -> str:
    return f'"{value}"' if "," in value else value


def grid(swept: Mapping[str, str]) -> list[dict[str, str]]:
    """Every combination of the values between commas, the last flag changing fastest."""
    if "seed" in swept:
        raise ValueError(f"--seed: expected --seeds, such as --seeds=5 for 0 to 4, got --seed={swept['seed']}")
    lists = [values(name, text) for name, text in swept.items()]
    return [dict(zip(swept, point, strict=True)) for point in itertools.product(*lists)]


def read_cells(path: Path, beside: Collection[str] = ()) -> list[dict[str, str]]:
    """A file with the flags of a cell in each line, as on a command line, commas and all; # begins a comment.

    beside: flags that hold for all lines, so that none sets them.

    Raises ValueError, naming file and line, for what is no flag, or one of those.
    """
    cells = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
            rest, settings = split_arguments(words, set())
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        if rest or "seed" in settings:
            raise ValueError(f"{path}:{number}: expected flags but --seed, got {line!r}")
        if twice := [name for name in settings if name in beside]:
            raise ValueError(f"{path}:{number}: expected no --{twice[0]}, which is typed for all lines, got {line!r}")
        if settings:
            cells.append(settings)
    if not cells:
        raise ValueError(f"{path}: expected a line of flags for each cell, got none")
    return cells


def read_seeds(text: str) -> list[int]:
    """'3' -> [0, 1, 2]; with a comma the seeds themselves: '1,4' -> [1, 4], '7,' -> [7]."""
    parts = text.removesuffix(",").split(",")
    numbers = [int(part) for part in parts if part.strip().isdigit()]
    many = "," in text
    if len(numbers) != len(parts) or len(set(numbers)) < len(numbers) or (not many and numbers[0] < 1):
        raise ValueError(f"--seeds: expected how many, such as 5, or which, such as 0,1,4, got {text!r}")
    return numbers if many else list(range(numbers[0]))


def resolve(typed: Mapping[str, str], backend: str) -> Cell:
    """The cell of some flags on a backend of JAX. Raises ValueError where train_offline would."""
    settings = dict(typed)
    for name in known_flags():
        flags.FLAGS[name].unparse()
    for name, text in settings.items():
        try:
            config_flags.fill({name: text}, set())
        except ValueError as error:
            raise ValueError(f"--{name}: {error}") from None
    if settings.get("preset", "auto") == "auto":
        settings["preset"] = auto_preset(flags.FLAGS.env, flags.FLAGS.method, backend)
        flags.FLAGS["preset"].value = settings["preset"]
    if settings["preset"] != "none":
        fill_preset(settings["preset"], set(settings))
    if "trajs" in settings and flags.FLAGS.trajs == config_flags.AUTO:
        raise ValueError("--trajs: expected a number, since auto depends on the machine, got auto")
    plan = read_plan()
    plan.check()
    resolved = {name: value for name, value in plan.flags().items() if name not in ("out", "seed")}
    differ = {k: v for k, v in resolved.items() if v != DEFAULTS[k] and k not in NOT_A_CELL} | {"env": resolved["env"]}
    key = hashlib.sha256(json.dumps(differ, sort_keys=True).encode()).hexdigest()[:10]
    return Cell(settings, resolved, key)


def plan_cells(points: Sequence[Mapping[str, str]], backend: str) -> list[Cell]:
    """The cells in order, each once. Raises ValueError where two would share a name or data that they cannot."""
    cells: dict[str, Cell] = {}
    first: dict[tuple[Any, ...], Cell] = {}
    for point in points:
        cell = resolve(point, backend)
        cells.setdefault(cell.key, cell)
        # data_dir is no part of the key; whoever comes first collects as many episodes as it says.
        for name, shared in (("data_dir", cell.key), ("episodes", (cell.resolved["env"], cell.resolved["dataset"]))):
            other = first.setdefault((name, shared), cell)
            if other.resolved[name] != cell.resolved[name]:
                got = f"{other.resolved[name]} and {cell.resolved[name]}"
                raise ValueError(f"--{name}: expected one value in all cells of the same data, got {got}")
    differ = differing([(cell.typed, cell.resolved) for cell in cells.values()])
    return [
        cell._replace(label=" ".join(words.values()) or cell.resolved["env"])
        for cell, words in zip(cells.values(), differ, strict=True)
    ]


def differing(settings: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]]) -> list[dict[str, str]]:
    """(typed, resolved) of cells -> for each, flag to `flag=value` where any was given it and they differ in it; a flag
    that a cell is older than has its default."""
    typed = dict.fromkeys(name for flags_, _ in settings for name in flags_ if name not in ("preset", *NOT_A_CELL))
    shown = [
        {name: json.dumps({**DEFAULTS, **resolved}.get(name, "")).strip('"') for name in typed}
        for _, resolved in settings
    ]
    varied = [name for name in typed if len({words[name] for words in shown}) > 1]
    return [{name: f"{name}={words[name]}" for name in varied} for words in shown]


def plan_runs(
    cells: Sequence[Cell], seeds: Sequence[int], out: Path, stored: Mapping[str, Sequence[int]] | None = None
) -> list[Run]:
    """All cells of the first seed, then of the next: a whole table is there early. Raises as Run.check.

    stored: by the key of a cell, the seeds that its row holds.
    """
    folders, held = {cell.key: _folder(cell, out) for cell in cells}, stored or {}
    runs = [
        Run(cell, seed, folders[cell.key] / f"seed-{seed}", seed in held.get(cell.key, ()))
        for seed in seeds
        for cell in cells
    ]
    for run in runs:
        run.check()
    return runs


def _folder(cell: Cell, out: Path) -> Path:
    """The cell's folder, by its key; the words before it are of whoever came first."""
    found = sorted(out.glob(f"*-{cell.key}"))
    words = re.sub(r"[^\w.+=-]+", "_", cell.label)[:80]
    return found[0] if found else out / f"{words}-{cell.key}"


def find_control(cells: Sequence[Cell], text: str) -> Cell:
    """The first cell whose flags have the values that `--control` names, such as 'trajs=1 relabel=false'; or the first.

    Raises ValueError when no cell has them.
    """
    words = [word if word.startswith("--") else f"--{word}" for word in shlex.split(text)]
    rest, wanted = split_arguments(words, set())
    try:
        parsed = {name: flags.FLAGS[name].parser.parse(value) for name, value in wanted.items()}
    except ValueError as error:
        raise ValueError(f"--control: expected flags of one of the cells, got {text!r}: {error}") from None
    for cell in cells:
        if not rest and all(cell.resolved.get(name) == value for name, value in parsed.items()):
            return cell
    raise ValueError(f"--control: expected flags of one of the cells, such as {cells[0].label!r}, got {text!r}")


def this_python(arguments: Sequence[str]) -> list[str]:
    """A command: this Python with arguments."""
    return [sys.executable, *arguments]
