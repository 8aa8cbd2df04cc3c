"""What the documents say was measured stands in results/, and what stands there is drawn from its rows."""

import functools
import re
from pathlib import Path

import pytest

from launch import ablation_report, cell_plots, documents, family_plots, sections, suite
from launch.comparison import read_stored_rows

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "results").glob("*.jsonl"))
DOCUMENTS = ["README.md", "docs/evidence.md", "docs/earlier.md", "docs/families.md"]
INTERVAL = re.compile(r"([+-]?[\d.]+)\s+\[([+-]?[\d.]+),\s+([+-]?[\d.]+)\]")


def intervals(text):
    """'435 [380, 490]' -> ('435', '380', '490')."""
    return INTERVAL.findall(text)


def rounded(interval, digits):
    """Its three numbers as text, each with so many digits behind the point."""
    return tuple(f"{float(number):.{count}f}" for number, count in zip(interval, digits, strict=True))


TABLES = "\n".join(path.with_suffix(".md").read_text() for path in RESULTS)
STORED = set(intervals(TABLES))


@functools.cache
def stored(digits):
    """What results/ holds, rounded."""
    return {rounded(interval, digits) for interval in STORED}


def measured(interval):
    """Whether an interval in results/ is this one, rounded as it is."""
    digits = tuple(len(number.partition(".")[2]) for number in interval)
    return rounded(interval, digits) in stored(digits)


@pytest.fixture(scope="module")
def found():
    """By the file of rows, the sections of its report, without figures."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, drawn in ((cell_plots, "draw", {}), (family_plots, "draw", b""), (suite, "_draw", b"")):
            patch.setattr(module, name, lambda *_, drawn=drawn: drawn)
        return {f"results/{path.name}": ablation_report.make_sections(read_stored_rows(path)) for path in RESULTS}


@pytest.mark.parametrize("source", RESULTS, ids=lambda path: path.stem)
def test_the_tables_in_results_are_those_of_their_rows(source, found):
    drawn = "\n".join(map(sections.markdown, found[f"results/{source.name}"]))
    assert drawn == source.with_suffix(".md").read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_tables_in_the_documents_are_those_of_their_rows(name, found):
    text = (ROOT / name).read_text()
    assert documents.MARK.search(text) and documents.refresh(text, found) == text


def test_a_table_in_a_document_is_drawn_anew(tmp_path):
    section = sections.Section(
        "walker_run", "", "", [], ["cell", "last, in %", "max"], [["AT", "1 [0, 2]", "3"]], ["own"], {}, ""
    )
    mark = "<!-- table: results/x.jsonl, walker_run; columns: cell | last, in %; values alone -->\n"
    document = tmp_path / "README.md"
    document.write_text(f"before\n\n{mark}| old |\n| --- |\n\nbehind\n")
    assert documents.refresh_all(tmp_path, {"results/x.jsonl": [section]}) == [document]
    assert document.read_text() == f"before\n\n{mark}| cell | last, in % |\n| --- | --: |\n| AT | 1 |\n\nbehind\n"
    assert documents.refresh_all(tmp_path, {"results/x.jsonl": [section]}) == []
    assert documents.refresh_all(tmp_path, {"results/y.jsonl": [section]}) == []
    with pytest.raises(ValueError, match=r"README\.md: table of results/x\.jsonl: expected one of: walker_run, got"):
        document.write_text("<!-- table: results/x.jsonl, z -->\n")
        documents.refresh_all(tmp_path, {"results/x.jsonl": [section]})
    with pytest.raises(ValueError, match=r"expected columns of: cell \| last, in % \| max, got min"):
        documents.refresh("<!-- table: results/x.jsonl, walker_run; columns: min -->\n", {"results/x.jsonl": [section]})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_interval_in_the_documents_was_measured(name):
    found = intervals((ROOT / name).read_text())
    assert found and not [interval for interval in found if not measured(interval)]


def test_a_number_that_was_not_measured_is_noticed():
    assert intervals("x 435\n[380, 490] y") == [("435", "380", "490")]
    assert rounded(("434.6", "0.38", "+434.4"), (0, 1, 0)) == ("435", "0.4", "434")
    value, low, high = min(STORED)
    assert measured((value, low, high)) and not measured((f"{float(value) + 1e4}", low, high))
