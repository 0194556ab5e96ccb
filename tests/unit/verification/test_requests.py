"""Completions meet the gold answers of their problems."""

from __future__ import annotations

import pytest

from sage_dpo.errors import DataError
from sage_dpo.records import Completion, FinishReason, Problem
from sage_dpo.verification import VerificationRequest, requests_for

PROBLEMS = [Problem("a", "1 + 1?", "2"), Problem("b", "2 + 2?", "4")]


def completion(problem_id: str, sample: int, text: str = "text") -> Completion:
    return Completion(problem_id, sample, text, (1,), (2,), FinishReason.STOP)


def test_each_completion_is_graded_against_its_own_problem_in_order() -> None:
    completions = [completion("b", 0), completion("a", 1, "two"), completion("b", 1)]
    assert requests_for(PROBLEMS, completions) == [
        VerificationRequest("b", 0, "text", "4"),
        VerificationRequest("a", 1, "two", "2"),
        VerificationRequest("b", 1, "text", "4"),
    ]


def test_a_completion_of_another_problem_is_refused() -> None:
    completions = [completion("a", 0), completion("d", 0), completion("c", 0), completion("c", 1)]
    with pytest.raises(DataError, match="answer 2 problems that were not given, first 'c'; give the problems they"):
        requests_for(PROBLEMS, completions)
