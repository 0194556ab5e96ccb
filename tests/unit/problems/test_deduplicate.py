"""Exact duplicates after normalisation."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_dpo.problems import deduplicate, load_problems, normalize_statement
from sage_dpo.records import Problem


def make(*rows: tuple[str, str, str]) -> list[Problem]:
    return [Problem(*row) for row in rows]


@pytest.mark.parametrize(
    ("first", "second", "are_equal"),
    [
        ("What is 1 + 1?", "what  is\n1+1?", True),
        (r"\left( \dfrac{1}{2} \right)", r"(\frac{1}{2})", True),
        (r"\tfrac12", r"\frac12", True),
        (r"\leftarrow", r"arrow", False),
        ("1+1", "1-1", False),
    ],
)
def test_normalization_row(first: str, second: str, are_equal: bool) -> None:
    assert (normalize_statement(first) == normalize_statement(second)) is are_equal


def test_first_of_equal_texts_is_kept_in_order() -> None:
    problems = make(("a", "X y", "1"), ("b", "other", "2"), ("c", "x Y", "1"), ("d", "xy", "1"))
    unique = deduplicate(problems)
    assert [problem.id for problem in unique.problems] == ["a", "b"]
    assert [(row.id, row.kept_id) for row in unique.duplicates] == [("c", "a"), ("d", "a")]
    assert unique.counts == {"duplicate": 2}
    assert unique.conflicts == []


def test_equal_texts_with_different_answers_are_a_conflict() -> None:
    unique = deduplicate(make(("a", "p", r"\frac13"), ("b", "p", r"\frac{1}{3}."), ("c", "p", "3")))
    assert [problem.id for problem in unique.problems] == ["a"]
    assert unique.counts == {"duplicate": 1, "conflicting_duplicate": 1}
    assert [(row.id, row.kept_answer, row.answer) for row in unique.conflicts] == [("c", r"\frac13", "3")]


def test_nothing_is_removed_twice_or_without_a_duplicate() -> None:
    problems = make(("a", "p", "1"), ("b", "q", "1"))
    assert deduplicate(problems).problems == problems
    assert deduplicate(problems).counts == {}
    assert deduplicate([]).problems == []


def test_benchmark_repeats_are_those_its_readme_states(benchmark_data: Path) -> None:
    repeats = deduplicate(load_problems(benchmark_data / "math_train.jsonl").problems)
    assert [(row.kept_id, row.id) for row in repeats.duplicates] == [
        ("math/train/925", "math/train/959"),
        ("math/train/1168", "math/train/1227"),
    ]
    college = deduplicate(load_problems(benchmark_data / "college_math.jsonl").problems)
    assert len({row.kept_id for row in college.duplicates}) == 35
    stated = {"college_math/699", "college_math/297", "college_math/1143", "college_math/2687", "college_math/2802"}
    assert stated <= {row.id for row in college.conflicts}
    assert deduplicate(load_problems(benchmark_data / "gsm8k_train.jsonl").problems).counts == {}
