"""The parts of a report on sweeps, and how one is written: as plain text, as GitHub markdown, as HTML."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from launch import page
from launch.intervals import Interval


class Figure(NamedTuple):
    """A picture and what stands below it."""

    png: bytes
    caption: str


class Section(NamedTuple):
    """What one comparison says."""

    title: str
    place: str
    """What tells its figures' files from those of other sections."""
    about: str
    """Data, seeds and control, in a line."""
    headline: list[str]
    """What was found, in sentences."""
    header: Sequence[str]
    lines: list[list[str]]
    """The table below its header."""
    kinds: list[str]
    """A class of the page for each line."""
    figures: dict[str, Figure]
    """By name; the first stands above the table, if there is one."""
    method: str
    """How its numbers were come by; a report says it once."""
    estimate: str = "interquartile mean"
    """What stands before an interval."""
    rows: Sequence[dict[str, Any]] = ()
    """Of the sweep: their commands are listed, and the provenance of the first."""


def show(interval: Interval, scale: float = 1, digits: int = 1, sign: bool = False) -> str:
    """'478.5 [450.2, 501.3]'; the value alone where a single chain gives no interval, nothing where there is none."""
    kind = f"{'+' if sign else ''}.{digits}f"
    value, low, high = (format(scale * number, kind) for number in interval)
    if math.isnan(interval.value):
        return ""
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"


def verdict(interval: Interval) -> str:
    """'contains 0' or 'does not contain 0'."""
    return "contains 0" if interval.low <= 0 <= interval.high else "does not contain 0"


def count(numbers: Sequence[int], what: str) -> str:
    """[3, 2, 3], 'seed' -> '2 to 3 seeds'; [1] -> '1 seed'."""
    low, high = min(numbers), max(numbers)
    return f"{low if low == high else f'{low} to {high}'} {what}{'s' * (high > 1)}"


def text(section: Section) -> str:
    """For a terminal: the first column begins at the left, the others end at the right."""
    lines = [
        f"{section.title}, {section.about}; {section.estimate} [95% interval]",
        *aligned([section.header, *section.lines], "<>"),
        *section.headline,
    ]
    return "\n".join(line.rstrip() for line in lines)


def aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Lines of a table, its columns to the left (<) or the right (>); the last of `sides` holds for all that follow."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = sides.ljust(len(widths), sides[-1])
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=False)).rstrip()
        for row in rows
    ]


def markdown(section: Section) -> str:
    """For documents on GitHub."""
    rows = markdown_table(section.header, section.lines)
    about = f"{section.about}; {section.estimate} [95% interval]."
    return "\n".join([f"## {section.title}", "", about, "", *rows, "", *(f"- {line}" for line in section.headline), ""])


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Its lines; the first column begins at the left, the others end at the right."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (header, rule, *lines)]


def parts(section: Section) -> list[str]:
    """For a page."""
    figures = [page.figure(figure.png, "png", figure.caption) for figure in section.figures.values()]
    found = [
        page.element("h2", section.title),
        page.element("p", section.about, "quiet"),
        *([page.lead(section.headline)] if section.headline else []),
        *figures[:1],
        page.table(section.header, section.lines, section.kinds),
        *figures[1:],
    ]
    if section.rows:
        row = section.rows[0]
        found += [
            page.element("h2", "Measure a cell again"),
            page.element("pre", "\n".join(row["command"] for row in section.rows)),
            page.facts({"commit": row["commit"], "time": row["time"], **(row["versions"] or {})}),
        ]
    return found
