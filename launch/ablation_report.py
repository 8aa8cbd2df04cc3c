"""ablation.jsonl -> a table, figures and one self-contained HTML page."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from envs.scores import normalised_score
from launch import cell_plots, page
from launch.comparison import STATISTICS, Comparison, Line, compare, read_stored_rows
from launch.intervals import Interval
from launch.metrics import write_atomically

_HEADER = ("cell", "context", *STATISTICS, "falls %", "score", "last - control", "same - control")
METHOD = (
    "Each chain of each training seed gives one number. Shown is the interquartile mean (the mean without the lowest "
    "and the highest quarter), and in brackets its 95% bootstrap interval: chains are drawn within seeds, and the "
    "seeds too where there are several (Agarwal et al., arXiv 2108.13264). Falls: share of episodes below half of the "
    "best in the data, a plain mean. Score: the last episode on the scale of the reference returns. Differences are "
    "means over chains of the same seed, whose episodes start from the same states: of the last episode, and of all "
    "episodes that both cells play. The best of n episodes rises with n for any policy that varies."
)
_CAPTIONS = {
    "intervals": "Interquartile means and 95% intervals; dashed: the best episode in the data. Right: differences "
    "chain by chain, on common initial states.",
    "by_trajs": "Interquartile means and 95% intervals against the number of trajectories.",
    "by_episode": "Interquartile mean of each episode of the chains, with 95% intervals.",
    "profiles": "Performance profiles: the share of chains that return more than x, with pointwise 95% intervals.",
}


def report(source: Path, out: Path) -> str:
    """Reads an ablation.jsonl, writes figures and <its name>.html into a folder; returns the tables as plain text.

    Raises FileNotFoundError or ValueError, naming the file, when there are no rows.
    """
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing: run python -m launch.ablate into {source.parent} first")
    comparisons = compare(read_stored_rows(source))
    if not comparisons:
        raise ValueError(f"{source}: expected a row with returns, found none")
    parts = [page.element("h1", "Cells compared"), page.element("p", source.name, "quiet")]
    for comparison in comparisons:
        images, place = cell_plots.draw(comparison), re.sub(r"[^\w.-]", "_", comparison.env)
        for name, image in images.items():
            write_atomically(out / f"{source.stem}_{place}_{name}.png", image)
        parts += _section(comparison, images)
    parts += [page.element("h2", "What was measured"), page.element("p", METHOD)]
    write_atomically(out / f"{source.stem}.html", page.document("Cells compared", parts))
    return "\n\n".join(_text(comparison) for comparison in comparisons)


def _section(comparison: Comparison, images: dict[str, bytes]) -> list[str]:
    lines = [(line, name) for line in comparison.lines for name in line.measured]
    figures = {name: page.figure(image, "png", _CAPTIONS[name]) for name, image in images.items()}
    commands = "\n".join(line.row["command"] for line in comparison.lines)
    row = comparison.control.row
    return [
        page.element("h2", comparison.env),
        page.element("p", _title(comparison), "quiet"),
        page.lead(_headline(comparison)),
        figures["intervals"],
        page.table(_HEADER, [_cells(*each) for each in lines], [name for _, name in lines]),
        figures["by_trajs"],
        figures["by_episode"],
        figures["profiles"],
        page.element("h2", "Measure a cell again"),
        page.element("pre", commands),
        page.facts({"commit": row["commit"], "time": row["time"], **(row["versions"] or {})}),
    ]


def _title(comparison: Comparison) -> str:
    row = comparison.control.row
    seeds = sorted({len(line.row["seeds"]) for line in comparison.lines})
    chains = sorted({n for line in comparison.lines for n in line.row["chains"].values()})
    return (
        f"data set {row['dataset']}: best episode {row['data']['best']:.1f}, mean {row['data']['mean']:.1f}; "
        f"{_range(seeds)} training seeds x {_range(chains)} chains; control: {comparison.control.label}"
    )


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _headline(comparison: Comparison) -> list[str]:
    """The best cell by its last episode, and what of it is sure against the control."""
    every = [
        (line, name, found.statistics["last"]) for line in comparison.lines for name, found in line.measured.items()
    ]
    best, protocol, last = max(every, key=lambda each: each[2].value)
    sentences = [f"Highest last episode: {best.label}, context {protocol}, {_show(last)}."]
    if protocol in best.differences and not math.isnan(best.differences[protocol][0].low):
        difference = best.differences[protocol][0]
        verb = "contains" if difference.low <= 0 <= difference.high else "does not contain"
        control = comparison.control.label
        sentences.append(f"Less that of {control}: {_show(difference, sign=True)}; the interval {verb} 0.")
    return sentences


def _show(interval: Interval, scale: float = 1, digits: int = 1, sign: bool = False) -> str:
    """'478.5 [450.2, 501.3]'; the value alone where a single chain gives no interval."""
    kind = f"{'+' if sign else ''}.{digits}f"
    value, low, high = (format(scale * number, kind) for number in interval)
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"


def _cells(line: Line, protocol: str) -> list[str]:
    found = line.measured[protocol].statistics
    score = normalised_score(line.row["env"], found["last"].value)
    differences = line.differences.get(protocol, ())
    return [
        line.label,
        protocol,
        *(_show(found[name]) for name in STATISTICS),
        _show(found["falls"], scale=100, digits=0),
        "" if score is None else f"{score:.1f}",
        *(_show(difference, sign=True) for difference in differences),
        *[""] * (2 - len(differences)),
    ]


def _text(comparison: Comparison) -> str:
    table = [list(_HEADER), *(_cells(line, name) for line in comparison.lines for name in line.measured)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(_HEADER))]
    lines = [
        f"{comparison.env}, {_title(comparison)}; interquartile mean [95% interval]",
        *("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in table),
        *_headline(comparison),
    ]
    return "\n".join(line.rstrip() for line in lines)
