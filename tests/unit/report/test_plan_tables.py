"""A plan's text says what its numbers are."""

from __future__ import annotations

from typing import Any

import pytest

from sage_dpo.report.plan import format_comparison, format_plan


def stage(name: str, **values: float) -> dict[str, Any]:
    return {"name": name, "tokens": 0.0, "flops": 0.0, "hours": 0.0, "memory_gb": 0.0, **values}


PLAN: dict[str, Any] = {
    "name": "toy",
    "machine": "1 x T4",
    "parts": [
        {"name": "first pool", "stages": [], "counts": {"pairs of a pool": 9.0}, "total": stage("total")},
        {
            "name": "sage",
            "stages": [stage("training", tokens=12_345.0, flops=1.5e15, hours=0.25, memory_gb=14.0)],
            "counts": {"trained pairs": 32.0},
            "total": stage("total", flops=1.5e15, hours=0.25, memory_gb=14.0),
        },
    ],
    "total": stage("total", flops=1.5e15, hours=0.25, memory_gb=14.0),
    "notes": ["padding 1.1"],
    "warnings": ["too big"],
}


def test_a_table_for_each_part_that_does_something() -> None:
    text = format_plan(PLAN)
    assert text.startswith("Plan of toy: 1 x T4\n")
    assert "sage (trained pairs 32)" in text
    row = next(line for line in text.splitlines() if line.startswith("training"))
    assert row.split() == ["training", "12,345", "1.5", "0.25", "14"]
    assert "first pool" not in text
    assert "- padding 1.1" in text
    assert text.endswith("warning: too big")


@pytest.mark.parametrize(
    ("hours", "printed"),
    [(12_340.0, "12,340"), (123.4, "123"), (12.34, "12.3"), (0.123, "0.12"), (0.00123, "0.0012"), (0.0, "<0.0001")],
)
def test_numbers_have_the_digits_that_matter(hours: float, printed: str) -> None:
    part = {**PLAN["parts"][1], "stages": [stage("training", tokens=1.0, hours=hours)]}
    row = next(r for r in format_plan({**PLAN, "parts": [part]}).splitlines() if r.startswith("training"))
    assert row.split() == ["training", "1", "–", printed, "–"]


def test_comparison_gives_the_ratio_and_names_what_is_absent() -> None:
    text = format_comparison(PLAN, {"sage": {"training": 24_690, "trained pairs": 32}})
    rows = {line.split("  ")[0]: line.split()[-3:] for line in text.splitlines()}
    assert rows["training"] == ["12,345", "24,690", "0.50"]
    assert rows["trained pairs"] == ["32", "32", "1.00"]
    assert format_comparison(PLAN, {}).strip() == "not in the run, or not complete there: sage"
