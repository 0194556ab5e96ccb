"""Overlap between training problems and evaluation suites."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sage_dpo.problems import load_problems, overlap_report
from sage_dpo.records import Problem

WORDS = [f"w{index}" for index in range(100)]


def problem(identifier: str, text: str, answer: str = "1") -> Problem:
    return Problem(identifier, text, answer)


def test_equal_texts_are_reported_with_their_answers() -> None:
    rows = overlap_report(
        [problem("t1", "What is 1 + 1?", "2"), problem("t2", "else")], {"suite": [problem("e1", "what is 1+1?", "2")]}
    )
    assert [(row.suite, row.suite_problem_id, row.problem_id, row.kind) for row in rows] == [
        ("suite", "e1", "t1", "equal")
    ]
    assert rows[0].share == 1.0
    assert rows[0].has_same_answer


def test_texts_that_differ_by_a_sign_are_equal_in_letters_and_digits() -> None:
    rows = overlap_report([problem("t", "solve z^4-z^2+1", "1")], {"s": [problem("e", "Solve: z^4+z^2+1", "2")]})
    assert [(row.kind, row.has_same_answer) for row in rows] == [("letters_and_digits", False)]


def test_shared_share_counts_thirteen_word_sequences() -> None:
    # the evaluation problem has 22 words, 22 - 12 = 10 sequences; of its first 20 words 20 - 12 = 8 are shared
    evaluation = problem("e", " ".join(WORDS[:22]))
    training = [problem("t1", " ".join(WORDS[:20])), problem("t2", " ".join(WORDS[:14]))]
    rows = overlap_report(training, {"s": [evaluation]}, min_share=0.8)
    assert [(row.problem_id, row.kind, row.share) for row in rows] == [("t1", "ngram", 0.8)]
    assert overlap_report(training, {"s": [evaluation]}, min_share=0.81) == []


def test_share_is_over_all_training_problems_together() -> None:
    # two halves: words 0-15 give sequences 0..3, words 4-21 give 4..9; together all ten
    evaluation = problem("e", " ".join(WORDS[:22]))
    training = [problem("t1", " ".join(WORDS[:16])), problem("t2", " ".join(WORDS[4:22]))]
    rows = overlap_report(training, {"s": [evaluation]})
    assert [(row.problem_id, row.share) for row in rows] == [("t2", 1.0)]


def test_unrelated_short_and_wordless_problems_do_not_overlap() -> None:
    suites = {"s": [problem("e1", "short one"), problem("e2", "???"), problem("e3", " ".join(WORDS[:30]))]}
    assert (
        overlap_report([problem("t1", "another"), problem("t2", "!!!"), problem("t3", " ".join(WORDS[50:80]))], suites)
        == []
    )
    assert overlap_report([], suites) == []
    assert overlap_report([problem("t", "x")], {}) == []


@pytest.mark.parametrize("min_share", [0.0, -0.1, 1.1])
def test_share_outside_its_range_is_rejected(min_share: float) -> None:
    with pytest.raises(ValueError, match=r"expected a share in \(0, 1\]"):
        overlap_report([], {}, min_share=min_share)


@pytest.mark.slow
def test_benchmark_overlap_is_what_its_readme_states(benchmark_data: Path) -> None:
    names = ("gsm8k", "math500", "minerva", "gaokao2023en", "olympiadbench", "college_math", "amc23", "aime24")
    suites = {name: load_problems(benchmark_data / f"{name}.jsonl").problems for name in names}
    training = {
        name: load_problems(benchmark_data / f"{name}.jsonl").problems for name in ("math_train", "gsm8k_train")
    }
    start = time.perf_counter()
    rows = overlap_report(training["math_train"] + training["gsm8k_train"], suites)
    assert time.perf_counter() - start < 30.0  # 15,000 against 6,000 problems; 2.5 s on an idle core

    assert [row for row in rows if row.kind == "equal"] == []
    by_letters = {(r.suite_problem_id, r.problem_id): r.has_same_answer for r in rows if r.kind == "letters_and_digits"}
    assert by_letters == {
        ("olympiadbench/2791", "math/train/4487"): True,
        ("olympiadbench/2890", "math/train/3443"): True,
        ("college_math/200", "math/train/6045"): True,
        ("math500/test/precalculus/285", "math/train/7163"): False,
    }
    assert {row.suite_problem_id for row in rows if row.suite == "math500"} == {
        "math500/test/precalculus/285",
        "math500/test/geometry/65",
        "math500/test/geometry/283",
    }
    any_share = overlap_report(training["math_train"], {"math500": suites["math500"]}, min_share=1e-9)
    assert len(any_share) == 58
    gsm8k = overlap_report(training["gsm8k_train"], suites, min_share=1e-9)
    assert [row.suite for row in gsm8k] == ["gsm8k"] * 3
    assert max(row.share for row in gsm8k) < 0.8
