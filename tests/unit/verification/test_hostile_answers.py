"""Answers that cost more than they look: those that can be computed are judged, the others are unknown, not wrong."""

from __future__ import annotations

import random

import pytest

from sage_dpo.verification import VerificationRequest, Verifier
from sage_dpo.verification.answers import compare_answers

pytestmark = pytest.mark.slow  # computes what is large, and waits for the deadlines of what is too large

HONEST = [
    "2^{2024}",
    "100!",
    r"\binom{100}{50}",
    "10^{100}",
    "10^{1000000}",
    "2^{16600000}",
    "20000!",
    "100000!",
    r"\binom{1000000}{3}",
    r"\binom{10^9}{2}",
    r"\binom{50000}{20000}",
    r"\frac{2024!}{1000! \cdot 1024!}",
    "3^{7^{7}}",
    "(x+1)^{100}",
    "(x+y)^{20}",
    "(x+y+z+w)^{8}",
    "1^{10^{10}}",
    "0^{10^{10}}",
    r"(2-\frac{4}{2})^{10^{10}}",
    "x^{2024}",
    r"2^{2 \cdot 10^{23}-10^{23}-10^{23}}",
    r"\sum_{k=1}^{1000000000} k",
]
LARGE = [  # told from 5 by their size, without being written out
    "3^{3^{3^3}}",
    r"(\frac{3}{2})^{10^{10}}",
    "10^{10^{100}}",
    "10^{10^{1000}}",
    "2^{10^9}",
    r"(5 \cdot 10^6)!",
    "2^{100!}",
    "(100!)!",
    r"\binom{10^{12}}{10^6}",
    "(x+y+z+5)^{200}",
    "(x+1)^{1000000}",
    r"x \cdot 3^{10^{10}}",
]
HOSTILE = [
    "9^{9^{9^9}}",
    "-9^{9^{9^9}}",
    r"\binom{5000000}{500000}",
    r"\frac{9^{9^{9^9}}}{2}",
    "x^{9^{9^{9^9}}}",
    "x+9^{9^{9^9}}",
    r"\log_{5}(9^{9^{9^9}})",
]


def kinds(answers: list[str], soft_timeout_s: float) -> dict[str, str]:
    requests = [VerificationRequest(answer, 0, f"\\boxed{{{answer}}}", "5") for answer in answers]
    with Verifier(soft_timeout_s=soft_timeout_s, hard_timeout_s=60.0) as verifier:
        return {verdict.problem_id: verdict.kind.value for verdict in verifier.verify(requests)}


@pytest.mark.slow
def test_what_can_be_computed_is_judged() -> None:
    assert kinds(HONEST + LARGE, soft_timeout_s=12.0) == dict.fromkeys(HONEST + LARGE, "wrong")


@pytest.mark.slow
def test_what_cannot_be_computed_is_unknown() -> None:
    assert kinds(HOSTILE, soft_timeout_s=0.9) == dict.fromkeys(HOSTILE, "timeout")


def test_an_equal_spelling_of_what_cannot_be_computed_is_correct() -> None:
    assert all(compare_answers(answer, f" {answer}") for answer in HOSTILE)


def test_malformed_text_never_raises() -> None:
    rng = random.Random(0)
    pieces = [
        "9", "10", "^", "{", "}", "(", ")", "!", "x", "-", "/", r"\frac", r"\binom", r"\sqrt", r"\sum_{k=1}", r"\prod",
        "[", "]", "_", "=", " ", r"\cdot", r"\pi", "0", "1" * 350, "^{9", "\u00e9", "\u0664", "\\",
    ]  # fmt: skip
    for _ in range(4_000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 12)))
        assert compare_answers("5", text) in (True, False, None)
    for text in ["(" * 400, "9^{" * 150, "9^{" * 30 + "9" + "}" * 30, "!" * 400, "9" * 499, "((((9!)!)!)!)!"]:
        assert compare_answers("5", text) in (True, False, None)
