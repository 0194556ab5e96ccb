"""The tables of a Markdown page are those of the published results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.errors import DataError
from sage_dpo.report.results_page import fill_tables
from sage_dpo.storage import write_json

ROOT = Path(__file__).parents[3]


def published(condition: str, *values: float) -> dict[str, Any]:
    entry = {"mean": sum(values) / len(values), "low": None, "high": None, "values": list(values)}
    return {"condition": condition, "x": None, "arms": {}, "comparisons": {"final": {"a_minus_b": entry}}}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    study = {"title": "Two", "axis": "pairs", **published("few", 0.25), "conditions": [published("many", 0.5, 0.75)]}
    write_json(tmp_path / "two.json", study)
    write_json(tmp_path / "one.json", {"title": "One", "axis": "", **published("base", 0.25), "conditions": []})
    return tmp_path


def test_the_committed_page_is_what_the_command_writes() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page.count("<!-- table: ") == page.count("<!-- end -->") > 20
    assert fill_tables(page, ROOT / "results") == page, "run `python -m sage_dpo.report.results_page docs/results.md`"


def test_every_published_study_is_on_the_page() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    named = set(re.findall(r"<!-- table: (\S+), ", page))
    assert named == {path.stem for path in (ROOT / "results").glob("*.json")}


def test_a_block_gets_the_table_and_the_text_around_it_stays(results: Path) -> None:
    page = "before\n<!-- table: one, Differences -->\nold\n<!-- end -->\nafter\n"
    filled = fill_tables(page, results)
    assert filled.startswith("before\n<!-- table: one, Differences -->\n\n**Differences in points, paired by seed**\n")
    assert filled.endswith("| final | a − b | +25.0 | – | +25.0 |\n\n<!-- end -->\nafter\n")
    assert "old" not in filled
    assert fill_tables(filled, results) == filled


def test_conditions_are_a_column_of_one_table(results: Path) -> None:
    filled = fill_tables("<!-- table: two, Differences -->\n<!-- end -->\n", results)
    assert filled.count("**Differences") == 1
    assert "| pairs | comparison | difference |" in filled
    assert "| few | final | a − b | +25.0 | – | +25.0 |\n| many | final | a − b | +62.5 | – |" in filled
    alone = fill_tables("<!-- table: two, Differences in points, paired by seed: many -->\n<!-- end -->\n", results)
    assert "seed: many**\n\n| comparison |" in alone


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("three, Differences", "three.json does not exist"),
        ("one, Ablations", "starts with 'Ablations'; it has \\['Diff"),
    ],
)
def test_a_block_that_cannot_be_filled_is_an_error(block: str, said: str, results: Path) -> None:
    with pytest.raises(DataError, match=said):
        fill_tables(f"<!-- table: {block} -->\n<!-- end -->\n", results)
