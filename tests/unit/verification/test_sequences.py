"""Tuples and intervals of plain numbers are decided without a worker."""

from __future__ import annotations

import pytest

from sage_dpo.verification.answers import compare_answers


@pytest.mark.parametrize(
    ("gold", "prediction", "expected"),
    [
        ("(3, 4)", r"\left(3,\,4\right)", True),
        ("(3, 4)", "(3.0, 4)", True),
        (r"\left(\frac{1}{2}, 2\right)", "(0.5, 2)", True),
        ("(3, 4)", "(4, 3)", False),
        ("(3, 4)", "(3, 4, 5)", False),
        ("(3, 4)", "(3, 5)", False),
        (r"[0, \infty)", r"[0,+\infty)", True),
        (r"(-\infty, 2)", r"(-\infty, 3)", False),
        (r"(-\infty, 2)", r"(\infty, 2)", False),
        ("[1, 2)", "[1, 2.5)", False),
        ("(10000, 5)", "(10{,}000, 5)", True),
        (r"(1000, 2)", r"(1,\!000, 2)", True),
        ("1000, 2000", "1{,}000, 2{,}000", True),
        ("(3, 4)", "[3, 4]", False),
        ("(x, 4)", "(3, 4)", None),
        ("(1,2) \\cup (3,4)", "(1,2) \\cup (3,5)", False),
        ("(1,2) \\cup (3,4)", "(3,4) \\cup (1,2)", True),
        ("(3)", "(4)", False),  # a number in brackets
        ("((1,2),3)", "((1,2),4)", False),
    ],
)
def test_sequences(gold: str, prediction: str, expected: bool | None) -> None:
    assert compare_answers(gold, prediction) is expected
