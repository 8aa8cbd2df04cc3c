"""ablation.jsonl -> tables, figures and one self-contained HTML page."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envs.scores import normalised_score
from launch import cell_plots, family_comparison, family_rows, labels, page, sections, suite
from launch.comparison import STATISTICS, Comparison, Line, compare, read_stored_rows
from launch.metrics import write_atomically
from launch.sections import Figure, Section, count, show, verdict

_HEADER = (
    *("cell", "context", *STATISTICS, "plain mean", "falls %"),
    *("mean - none", "score", "last - control", "same - control"),
)
METHOD = (
    "Each chain of each training seed gives one number. Shown is the interquartile mean (the mean without the lowest "
    "and the highest quarter), and in brackets its 95% bootstrap interval: chains are drawn within seeds, and the "
    "seeds too where there are several (Agarwal et al., arXiv 2108.13264). Of fewer than four numbers there are no "
    "intervals, and those of few are too narrow: of four normal ones they hold the truth in 81 to 88% of cases, of "
    "eight in 89 to 93%. Plain mean: of all episodes. Chains of different lengths are to be compared by it alone: an "
    "interquartile mean over short chains leaves out their falls, over long ones each chain holds its share of them. "
    "Falls: share of episodes below half of the best in the data, a plain mean. Score: the last "
    "episode on the scale of the reference returns. Differences are means over chains of the same seed, whose episodes "
    "start from the same states: of all episodes against those with an empty context (mean - none); against the "
    "control, of the last episode, and of the first chains and episodes, as many as both cells play (same - control), "
    "which of a cell of chains of one episode are few. A control that was not played with such a context "
    "is taken with an empty one. The best of n episodes rises with n for any policy that varies."
)
_CAPTIONS = {
    "intervals": "Interquartile means and 95% intervals; dashed: the best episode in the data. Right: differences "
    "chain by chain, on common initial states.",
    "by_trajs": "Interquartile means and 95% intervals against the number of trajectories.",
    "by_episode": "Interquartile mean of each episode of the chains, with 95% intervals.",
    "profiles": "Performance profiles: the share of chains that return more than x, with pointwise 95% intervals.",
}


def report(source: Path, out: Path) -> str:
    """As `write` -> its tables as plain text."""
    return "\n\n".join(map(sections.text, write(source, out)))


def write(source: Path, out: Path) -> list[Section]:
    """Reads an ablation.jsonl, writes figures, <its name>.html and its tables as <its name>.md into a folder.

    Raises FileNotFoundError or ValueError, naming the file, when there are no rows.
    """
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing: run python -m launch.ablate into {source.parent} first")
    found = make_sections(read_stored_rows(source))
    if not found:
        raise ValueError(f"{source}: expected a row with returns, found none")
    parts = [page.element("h1", "Cells compared"), page.element("p", source.name, "quiet")]
    for section in found:
        place = re.sub(r"[^\w.-]", "_", section.place)
        for name, figure in section.figures.items():
            write_atomically(out / f"{source.stem}_{place}_{name}.png", figure.png)
        parts += sections.parts(section)
    parts.append(page.element("h2", "What was measured"))
    parts += [page.element("p", method) for method in dict.fromkeys(section.method for section in found)]
    write_atomically(out / f"{source.stem}.html", page.document("Cells compared", parts))
    write_atomically(out / f"{source.stem}.md", "\n".join(map(sections.markdown, found)))
    return found


def make_sections(rows: Sequence[dict[str, Any]]) -> list[Section]:
    """Rows of both kinds -> what they say: of all environments together, of each, and of each family's cells."""
    of_families = [row for row in rows if family_rows.is_family(row)]
    others = [row for row in rows if not family_rows.is_family(row) and row["returns"]]
    return [*suite.make_sections(others), *map(_section, compare(others)), *family_comparison.sections(of_families)]


def _section(comparison: Comparison) -> Section:
    lines = [(line, name) for line in comparison.lines for name in line.measured]
    return Section(
        title=comparison.name,
        place=comparison.name,
        about=_about(comparison),
        headline=_headline(comparison),
        header=_HEADER,
        lines=[_cells(*each) for each in lines],
        kinds=[name for _, name in lines],
        figures={name: Figure(image, _CAPTIONS[name]) for name, image in cell_plots.draw(comparison).items()},
        method=METHOD,
        rows=[comparison.control.row, *(line.row for line in comparison.lines if line is not comparison.control)],
    )


def _about(comparison: Comparison) -> str:
    row = comparison.control.row
    seeds = [len(line.row["seeds"]) for line in comparison.lines]
    chains = [n for line in comparison.lines for n in line.row["chains"].values()]
    return (
        f"data set {row['dataset']}: best episode {row['data']['best']:.1f}, mean {row['data']['mean']:.1f}; "
        f"{count(seeds, 'training seed')} x {count(chains, 'chain')}; control: {comparison.control.label}"
        f"{labels.aside(comparison.common)}"
    )


def _headline(comparison: Comparison) -> list[str]:
    """The best cell by its last episode, and what of it is sure against the control."""
    every = [
        (line, name, found.statistics["last"]) for line in comparison.lines for name, found in line.measured.items()
    ]
    best, protocol, last = max(every, key=lambda each: each[2].value)
    sentences = [f"Highest last episode: {best.label}, context {protocol}, {show(last)}."]
    if protocol in best.differences and not math.isnan(best.differences[protocol][0].low):
        difference, control = best.differences[protocol][0], comparison.control.label
        sentences.append(f"Less that of {control}: {show(difference, sign=True)}; the interval {verdict(difference)}.")
    return sentences


def _cells(line: Line, protocol: str) -> list[str]:
    found = line.measured[protocol].statistics
    score = normalised_score(line.row["env"], found["last"].value)
    differences = line.differences.get(protocol, ())
    return [
        line.label,
        protocol,
        *(show(found[name]) for name in STATISTICS),
        f"{line.measured[protocol].returns.mean():.1f}",
        show(found["falls"], scale=100, digits=0),
        show(line.gains[protocol], sign=True) if protocol in line.gains else "",
        "" if score is None else f"{score:.1f}",
        *(show(difference, sign=True) for difference in differences),
        *[""] * (2 - len(differences)),
    ]
