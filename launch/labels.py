"""What the cells of a sweep are called in tables and figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from data.chain import ChainRules
from launch.cells import differing
from launch.plan import METHOD_NAMES, WATCHING

RULES = tuple(rule.name for rule in fields(ChainRules))
BASE = "base"
"""A cell in which nothing is but what most cells have."""


class Names(NamedTuple):
    """What cells are called."""

    words: list[dict[str, str]]
    """Of each cell, by flag: `flag=value`, or the name of a method, where it is not what most cells have."""
    common: str
    """What most cells have, of the flags in which some differ."""

    def labels(self) -> list[str]:
        """A label for each cell."""
        return [" ".join(of_cell.values()) or BASE for of_cell in self.words]


def name(rows: Sequence[Mapping[str, Any]], apart: Sequence[str] = ()) -> Names:
    """Rows of cells -> their names, from the flags that were typed for some and in which they differ.

    What more than half of the cells have is left out, so are the rules of chains where there are none, and how
    much was played, where that tells no cells apart. apart: flags that do not count.
    """
    typed = [{flag: value for flag, value in row["typed"].items() if flag not in apart} for row in rows]
    differ = differing([(of_row, row["flags"]) for of_row, row in zip(typed, rows, strict=True)])
    found = [
        {flag: word for flag, word in of_cell.items() if flag not in RULES or _has_chains(row["flags"])}
        for of_cell, row in zip(differ, rows, strict=True)
    ]
    if _different(found) < _different(differ):
        found = differ
    for watching in WATCHING:
        fewer = [{flag: word for flag, word in of_cell.items() if flag != watching} for of_cell in found]
        if _different(fewer) == _different(found):
            found = fewer
    order = sorted(differ[0] if differ else (), key=lambda flag: flag != "method")
    common = []
    for flag in order:
        said = Counter(of_cell[flag] for of_cell in found if flag in of_cell)
        common += [word for word, times in said.items() if flag != "method" and 2 * times > said.total()]
    words = [
        {flag: _said(flag, of_cell[flag]) for flag in order if flag in of_cell and of_cell[flag] not in common}
        for of_cell in found
    ]
    return Names(words, " ".join(common))


def aside(common: str) -> str:
    """What most cells have, to stand behind other facts; nothing where that is nothing."""
    return f"; where nothing else is said: {common}" if common else ""


def _has_chains(flags: Mapping[str, Any]) -> bool:
    """Whether rules of chains change anything: a chain of one trajectory has but its last."""
    return flags.get("method", "at") == "at" and flags.get("trajs", 2) > 1


def _said(flag: str, word: str) -> str:
    return METHOD_NAMES[word.partition("=")[2]] if flag == "method" else word


def _different(found: Sequence[Mapping[str, str]]) -> int:
    return len({tuple(of_cell.values()) for of_cell in found})
