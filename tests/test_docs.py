"""What the documents say was measured stands in results/, and what stands there is drawn from its rows."""

import re
from pathlib import Path

import pytest

from launch import ablation_report, cell_plots, family_plots, sections, suite
from launch.comparison import read_stored_rows

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "results").glob("*.jsonl"))
INTERVAL = re.compile(r"([+-]?[\d.]+)\s+\[([+-]?[\d.]+),\s+([+-]?[\d.]+)\]")


def intervals(text):
    """'435 [380, 490]' -> ('435', '380', '490')."""
    return INTERVAL.findall(text)


def cells(text):
    """The lines of markdown tables."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def same(shown, stored):
    """Whether a number is another, rounded."""
    return f"{float(stored):.{len(shown.partition('.')[2])}f}" == f"{float(shown):.{len(shown.partition('.')[2])}f}"


TABLES = "\n".join(path.with_suffix(".md").read_text() for path in RESULTS)


@pytest.mark.parametrize("source", RESULTS, ids=lambda path: path.stem)
def test_the_tables_in_results_are_those_of_their_rows(source, monkeypatch):
    for module, name, drawn in ((cell_plots, "draw", {}), (family_plots, "draw", b""), (suite, "_draw", b"")):
        monkeypatch.setattr(module, name, lambda *_, drawn=drawn: drawn)
    found = ablation_report.make_sections(read_stored_rows(source))
    assert "\n".join(map(sections.markdown, found)) == source.with_suffix(".md").read_text()


@pytest.mark.parametrize("name", ["README.md", "docs/evidence.md", "docs/families.md"])
def test_every_interval_in_the_documents_was_measured(name):
    found = intervals((ROOT / name).read_text())
    stored = set(intervals(TABLES))
    unknown = [each for each in found if not any(all(map(same, each, other)) for other in stored)]
    assert found and not unknown


def test_the_table_of_the_readme_is_the_one_of_the_mean_episode():
    title = "## All environments, mean episode of a chain"
    measured = cells(TABLES.partition(title)[2].partition("\n## ")[0])
    shown = cells((ROOT / "README.md").read_text().partition("| cell | context |")[2].partition("\n\n")[0])
    assert [line[1:] for line in shown[1:]] == [[cell.partition(" ")[0] for cell in line[1:]] for line in measured[2:]]


def test_a_number_that_was_not_measured_is_noticed():
    assert intervals("x 435\n[380, 490] y") == [("435", "380", "490")]
    assert same("435", "434.6") and same("0.4", "0.38") and not same("435", "434.4")
