"""Completions meet the gold answers of their problems."""

from __future__ import annotations

from typing import Any

import pytest

from sage_dpo.errors import DataError
from sage_dpo.records import Completion, FinishReason, Problem
from sage_dpo.verification import AnswerType, VerificationRequest, requests_for
from sage_dpo.verification.answer_types import answer_type
from sage_dpo.verification.answers import compare_answers

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "5"), "sample 0: the completion is None, expected text"),
        ((float("nan"), "5"), "the completion is nan, expected text"),
        (("5", None), "the gold answer is None, expected text; mend this problem"),
        (("5", float("nan")), "the gold answer is nan"),
        (("5", " "), "the gold answer is ' '"),
        (("5", "5", "integer"), "answer_type is 'integer', expected number, choice, text, expression"),
    ],
)
def test_what_is_not_text_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        VerificationRequest("a", 0, *arguments)


def test_a_problem_states_its_answer_type() -> None:
    problem = Problem("a", "Which day?", "May", metadata={"answer_type": "text"})
    assert requests_for([problem], [completion("a", 0)])[0].answer_type is AnswerType.TEXT


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ("5", "number"), ("1,450", "number"), (r"\frac34", "number"), (r"17\%", "number"), ("x=5", "number"),
        (r"5\text{ cm}", "number"), (r"\text{twelve}", "number"), ("90^\\circ", "number"), ("C", "choice"),
        (r"\text{(C)}", "choice"), ("B, C", "choice"), ("even", "text"), ("no", "text"), ("all real numbers", "text"),
        (r"\text{Evelyn}", "text"), ("XIV", "text"), (r"2\sqrt{3}", "expression"), ("ab", "expression"),
        ("mgh", "expression"), ("1, 2", "expression"), ("(1,2)", "expression"), ("AB", "expression"),
    ],
)  # fmt: skip
def test_the_gold_tells_its_type(gold: str, expected: str) -> None:
    assert answer_type(gold) == expected


def test_a_stated_type_overrules_the_gold() -> None:
    assert compare_answers("bad", "dab", AnswerType.TEXT) is False
    assert compare_answers("C", "C. 12", AnswerType.EXPRESSION) is None
    assert compare_answers("no", "on", AnswerType.EXPRESSION) is None
