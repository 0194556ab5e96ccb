"""Tables say exactly what the summary says, and no more than its intervals allow."""

from __future__ import annotations

from typing import Any

import pytest

from sage_dpo.errors import DataError
from sage_dpo.report.summary import Summary, duration, percent, points
from sage_dpo.report.tables import comparison_table, cost_table, format_table, markdown_tables, result_table


def two_arms(first: float, second: float, **comparison: float) -> dict[str, Any]:
    return {
        "name": "run",
        "seed": 1,
        "arms": {"a": {"average": first, "suites": {"s": first}}, "b": {"average": second, "suites": {"s": second}}},
        "comparisons": {"b_minus_a": comparison} if comparison else {},
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4712, "47.1"), (1.0, "100.0"), (0.0, "0.0"), (None, "–")],
)
def test_fractions_print_as_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_differences_always_carry_their_sign() -> None:
    assert points(0.046) == "+4.6"
    assert points(-0.0295 - 1e-9) == "−3.0"


@pytest.mark.parametrize(
    ("seconds", "text"), [(60.0, "60.0 s"), (754.0, "12.6 min"), (4 * 3600.0, "4.0 h"), (None, "–")]
)
def test_duration_chooses_a_readable_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_best_of_a_row_is_bold_and_only_it() -> None:
    row = result_table(Summary.from_dict(two_arms(0.5, 0.61))).rows[0]
    assert [cell.is_best for cell in row] == [False, False, True]
    assert "| average | 50.0 | **61.0** |" in markdown_tables(two_arms(0.5, 0.61))


def test_arms_equal_at_printed_precision_are_both_best() -> None:
    row = result_table(Summary.from_dict(two_arms(0.50001, 0.50002))).rows[0]
    assert [cell.is_best for cell in row[1:]] == [True, True]


def test_the_best_probes_average_has_a_row_where_it_was_evaluated() -> None:
    summary = two_arms(0.5, 0.61)
    assert "best probe" not in markdown_tables(summary)
    summary["arms"]["b"]["best"] = {"step": 2, "average": 0.7}
    assert "| average at the best probe | – | 70.0 |" in markdown_tables(summary)


def test_a_single_arm_is_not_called_best() -> None:
    summary = {"arms": {"sage": {"average": 0.6, "suites": {}}}}
    assert not any(cell.is_best for cell in result_table(Summary.from_dict(summary)).rows[0])


@pytest.mark.parametrize(
    ("low", "high", "reading"),
    [
        (-0.01, 0.03, "not distinguishable"),
        (0.0, 0.03, "not distinguishable"),
        (0.01, 0.03, "higher"),
        (-0.03, -0.01, "lower"),
    ],
)
def test_interval_decides_what_a_difference_is_called(low: float, high: float, reading: str) -> None:
    table = comparison_table(Summary.from_dict(two_arms(0.5, 0.51, mean=(low + high) / 2, low=low, high=high)))
    assert table.rows[0][0].text == "b − a"
    assert table.rows[0][3].text.startswith(reading)


def test_difference_without_interval_is_not_judged() -> None:
    table = comparison_table(Summary.from_dict(two_arms(0.5, 0.6, mean=0.1)))
    assert table.rows[0][3].text == "no interval recorded"


def test_unrecorded_values_print_as_absent_and_unrecorded_rows_vanish() -> None:
    summary = {"arms": {"a": {"average": None, "train_tokens": 1234567}, "b": {"average": 0.5}}}
    parsed = Summary.from_dict(summary)
    assert [cell.text for cell in result_table(parsed).rows[0]] == ["average", "–", "50.0"]
    assert [[cell.text for cell in row] for row in cost_table(parsed).rows] == [["tokens trained", "1,234,567", "–"]]


def test_measuring_time_is_marked_as_not_part_of_wall_clock() -> None:
    summary = {"arms": {"a": {"average": 0.5, "wall_s": 90.0, "wall_breakdown": {"probe": 5.0, "training": 90.0}}}}
    rows = [[cell.text for cell in row] for row in cost_table(Summary.from_dict(summary)).rows]
    assert rows == [["wall-clock", "90.0 s"], ["… training", "90.0 s"], ["… probe (not in wall-clock)", "5.0 s"]]


def test_terminal_table_is_aligned_and_marks_best_with_a_star() -> None:
    lines = format_table(two_arms(0.5, 0.61)).splitlines()
    assert lines[0] == "Accuracy in percent"
    header, average = lines[1], lines[3]
    assert header.split() == ["suite", "a", "b"]
    assert average.split() == ["average", "50.0", "61.0*"]
    assert len(average.rstrip("*")) <= len(header)


def test_terminal_table_says_when_nothing_was_evaluated() -> None:
    assert format_table({"name": "tuning", "arms": {}}) == "tuning: no arm has been evaluated\n"
    unevaluated = {"name": "tuning", "arms": {"sage": {"average": None, "suites": {}, "train_tokens": 10}}}
    assert "no arm has been evaluated" in format_table(unevaluated)
    assert "tokens trained" in format_table(unevaluated)


def test_arm_names_cannot_break_the_markdown_table() -> None:
    text = markdown_tables({"arms": {"a|b<i>": {"average": 0.5, "suites": {}}}})
    header = next(line for line in text.splitlines() if line.startswith("| suite"))
    assert header == "| suite | a\\|b&lt;i> |"


def test_not_a_summary_is_refused_with_a_remedy() -> None:
    with pytest.raises(DataError, match="run the evaluation again"):
        markdown_tables({"arms": [1, 2]})
