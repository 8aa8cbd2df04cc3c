"""Benchmarks, one module each: what `python -m launch.bench NAME` runs.

A bench has HELP (one line) and `run(settings) -> rows`; a row is a line of a table, with plain JSON values. Rows
that have a `table` stand under that heading. PLOT, where a bench has it, says what its plot shows.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

BENCHES = ("memory", "layer", "attention", "train", "rollout", "data", "fullsize", "context", "lm")

Row = dict[str, Any]


class Settings(NamedTuple):
    """What the flags of launch.bench say."""

    out: Path
    """Folder of the results."""
    seed: int
    repeats: int
    """Timed rounds after the warm-up."""
    quick: bool
    """Small shapes, to try a bench out: the numbers mean nothing."""
    official: str
    """Folder of the official Blockwise Parallel Transformer code; empty where there is none."""
    threads: int
    """Cores the process is pinned to; 0 is all."""


class Plot(NamedTuple):
    """What the bars of a plot are: one panel per table."""

    bars: tuple[str, ...]
    """Columns that name a bar."""
    values: tuple[str, ...]
    """Columns to draw: the first of them that a table has."""


def choose(words: Sequence[str]) -> list[str]:
    """Names as typed -> the benches to run, each once.

    Raises:
        ValueError: a name that is not known, or none.
    """
    known = (*BENCHES, "all")
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        raise ValueError(f"bench: expected one or more of {', '.join(known)}; got {', '.join(unknown) or 'none'}")
    return list(BENCHES) if "all" in words else list(dict.fromkeys(words))


def load(name: str) -> ModuleType:
    """The module of a bench."""
    return importlib.import_module(f"{__name__}.{name}")
