"""Fills the tables of a Markdown page from published results: `python -m sage_dpo.report.results_page docs/results.md`.

The page marks where a table goes, and of which study, by the start of its caption (`sage-dpo study` prints them). In
place of a study it may name the headlines (`python -m sage_dpo.studies.headlines`):

    <!-- table: main, Differences in points -->
    (everything here is replaced)
    <!-- end -->
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage_dpo.errors import DataError
from sage_dpo.report.study_tables import StudyResult, conditions, study_tables
from sage_dpo.report.summary import points
from sage_dpo.report.tables import Cell, Table, cells, render_markdown
from sage_dpo.storage import read_json, write_text

_BLOCK = re.compile(r"(<!-- table: (\S+), (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_tables(page: str, results: Path) -> str:
    """Return the page with every marked block filled.

    Args:
        page: Markdown.
        results: folder of one `<study>.json` for each study that the page names.

    Raises:
        DataError: a study has no file, or no table whose caption starts so.
    """

    def fill(block: re.Match[str]) -> str:
        opening, study, start, closing = block.groups()
        result = read_json(results / f"{study}.json")
        is_headlines = "token_ratio" in result
        tables = [_headlines(result)] if is_headlines else study_tables(result)
        found = [table for table in tables if table.caption.startswith(start)]
        if not found:
            captions = [table.caption for table in tables]
            raise DataError(f"no table of study {study!r} has a caption that starts with {start!r}; it has {captions}")
        shown = found if is_headlines else _joined(found, result)
        return "\n".join([opening, *(render_markdown(table) for table in shown), closing])

    return _BLOCK.sub(fill, page)


def _headlines(result: Mapping[str, Any]) -> Table:
    """Return what `sage_dpo.studies.headlines` drew together: one row for each comparison."""
    rows = []
    for name, entries in result["comparisons"].items():
        differences = [entries["sage_minus_dpo_full"], entries["sage_minus_dpo_random"]]
        texts = [[points(entry[key] / 100) for key in ("mean", "low", "high")] for entry in differences]
        ratio = f"{result['token_ratio'][name]:.2f}"
        rows.append(cells(name, *(text for mean, low, high in texts for text in (mean, f"{low} to {high}")), ratio))
    header = (
        "comparison",
        "SAGE − DPO, all pairs",
        "95 %",
        "SAGE − DPO, random half",
        "95 %",
        "trained tokens, SAGE / all",
    )
    return Table("SAGE against DPO, points of accuracy", header, tuple(rows))


def _joined(tables: list[Table], result: StudyResult) -> list[Table]:
    """Tables that differ only in their condition as one, with the condition as a column in front."""
    names = [row["condition"] for row in conditions(result)]
    alike: dict[tuple[str, tuple[str, ...]], list[Table]] = {}
    for table in tables:
        caption, _, condition = table.caption.rpartition(": ")
        alike.setdefault((caption if condition in names else table.caption, table.header), []).append(table)
    return [
        same[0] if len(same) == 1 else _with_conditions(caption, result["axis"] or "condition", same)
        for (caption, _), same in alike.items()
    ]


def _with_conditions(caption: str, axis: str, tables: list[Table]) -> Table:
    rows = [(Cell(table.caption.rpartition(": ")[2]), *row) for table in tables for row in table.rows]
    return replace(tables[0], caption=caption, header=(axis, *tables[0].header), rows=tuple(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fill the marked tables of a Markdown page.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of <study>.json; default results")
    arguments = parser.parse_args()
    write_text(arguments.page, fill_tables(arguments.page.read_text(encoding="utf-8"), arguments.results))


if __name__ == "__main__":
    main()
