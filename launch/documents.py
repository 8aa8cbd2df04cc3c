"""Tables in documents that are drawn from rows. Such a table stands below a line that says which it is:

<!-- table: results/td3.jsonl, All environments, mean episode of a chain; columns: cell | all; values alone -->

Behind the file comes the title of a section of its report, then, where not all is wanted, the columns, and whether
their intervals are left out. `python -m launch.report results/` writes the lines below it anew.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch import sections
from launch.metrics import write_atomically
from launch.sections import Section

MARK = re.compile(
    r"(?P<mark><!-- table: (?P<source>\S+\.jsonl), (?P<title>[^;>]+?)"
    r"(?:; columns: (?P<columns>[^;>]+?))?(?P<alone>; values alone)? -->\n)(?P<table>(?:\|.*\n)*)"
)
_INTERVAL = re.compile(r" \[[^\]]*\]")


def refresh_all(root: Path, found: Mapping[str, Sequence[Section]]) -> list[Path]:
    """Writes README.md and docs/*.md below root anew, where a table in them is another; returns those.

    found: by the file of rows, as seen from root, the sections of its report. Raises ValueError as `refresh`.
    """
    changed = []
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        try:
            after = refresh(before, found)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if after != before:
            write_atomically(path, after)
            changed.append(path)
    return changed


def refresh(text: str, found: Mapping[str, Sequence[Section]]) -> str:
    """A document with the tables of these files of rows drawn anew; those of other files stay.

    Raises ValueError for a section or a column that is not there.
    """

    def drawn(match: re.Match[str]) -> str:
        source, title = match["source"], match["title"]
        if source not in found:
            return match[0]
        section = next((section for section in found[source] if section.title == title), None)
        if section is None:
            titles = "; ".join(section.title for section in found[source])
            raise ValueError(f"table of {source}: expected one of: {titles}, got {title!r}")
        return match["mark"] + _table(section, match["columns"], bool(match["alone"]))

    return MARK.sub(drawn, text)


def _table(section: Section, columns: str | None, alone: bool) -> str:
    names = [name.strip() for name in columns.split("|")] if columns else list(section.header)
    if unknown := [name for name in names if name not in section.header]:
        raise ValueError(
            f"table of {section.title}: expected columns of: {' | '.join(section.header)}, got {' | '.join(unknown)}"
        )
    places = [list(section.header).index(name) for name in names]
    lines = [[line[place] for place in places] for line in section.lines]
    if alone:
        lines = [[_INTERVAL.sub("", cell) for cell in line] for line in lines]
    return "\n".join(sections.markdown_table(names, lines)) + "\n"
