"""The real benchmark files: every gold accepts itself, and human solutions are graded as the sources grade them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.rules import verdict_counts
from sage_dpo.verification import VerificationRequest, Verifier

pytestmark = pytest.mark.slow  # thousands of answers

SUITES = ("gsm8k", "math500", "minerva", "gaokao2023en", "olympiadbench", "college_math", "amc23", "aime24")


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("name", SUITES)
def test_every_gold_answer_accepts_itself(name: str, benchmark_data: Path) -> None:
    requests = [
        VerificationRequest(row["id"], 0, f"So \\boxed{{{row['answer']}}}.", row["answer"])
        for row in rows(benchmark_data, name)
    ]
    with Verifier() as verifier:
        counts = verdict_counts(verifier.verify(requests))
    assert counts["correct"] == len(requests)


def test_gsm8k_human_solutions_are_correct_in_seconds(benchmark_data: Path) -> None:
    # the data file keeps the worked solution and the `#### answer` line apart; joined they are the source's text
    requests = [
        VerificationRequest(row["id"], 0, f"{row['solution']}\n#### {row['answer']}", row["answer"])
        for row in rows(benchmark_data, "gsm8k_train")
    ]
    assert len(requests) == 7473
    start = time.perf_counter()
    with Verifier() as verifier:
        counts = verdict_counts(verifier.verify(requests))
    assert counts["correct"] >= 0.999 * len(requests)
    assert time.perf_counter() - start < 60.0


def test_gsm8k_human_solutions_without_their_answer_line_are_mostly_correct(benchmark_data: Path) -> None:
    requests = [
        VerificationRequest(row["id"], 0, row["solution"], row["answer"]) for row in rows(benchmark_data, "gsm8k_train")
    ]
    with Verifier() as verifier:
        counts = verdict_counts(verifier.verify(requests))
    # what is left ends in another unit (`0.25` for 25 cents), is rounded in words, or has a slip in the text
    assert counts["correct"] >= 0.988 * len(requests)


def test_math_human_solutions_are_correct_by_their_boxes(benchmark_data: Path) -> None:
    requests = [
        VerificationRequest(row["id"], 0, row["solution"], row["answer"]) for row in rows(benchmark_data, "math_train")
    ]
    with Verifier() as verifier:
        counts = verdict_counts(verifier.verify(requests))
    # 10 of the 7,498 sources box several values and keep the last as their answer
    assert counts["correct"] >= len(requests) - 10


def test_answer_of_the_next_problem_is_accepted_only_if_it_is_the_same(benchmark_data: Path) -> None:
    problems = rows(benchmark_data, "math500")
    shifted = problems[1:] + problems[:1]
    pairs = [
        (problem, other)
        for problem, other in zip(problems, shifted, strict=True)
        if problem["answer"] != other["answer"]
    ]
    requests = [
        VerificationRequest(problem["id"], 0, f"\\boxed{{{other['answer']}}}", problem["answer"])
        for problem, other in pairs
    ]
    with Verifier() as verifier:
        verdicts = verifier.verify(requests)
    accepted = [(p["answer"], o["answer"]) for (p, o), v in zip(pairs, verdicts, strict=True) if v.is_correct]
    assert accepted == [("5", "x=5")]
