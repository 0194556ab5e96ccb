"""What the guard refuses, and what it must leave to math-verify."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from sage_dpo.verification.answers import prepare_pair
from sage_dpo.verification.expression import read_expression
from sage_dpo.verification.magnitude import is_explosive, is_hopeless

# decided by math-verify within a second, each against 5, x^2+1, 1/2 and 2 sqrt 3 (but the (x+y)^n: within four)
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
    "(1-1)^{10^{10}}",
    r"(2-\frac{4}{2})^{10^{10}}",
    "x^{2024}",
    "7^{7^7}",
    # large numbers that the value or the rest of the answer makes vanish
    "3^{-10^{10}}",
    r"\frac{1}{3^{10^{10}}}",
    "(3^{10^{10}})^{0}",
    r"0 \cdot 3^{10^{10}}",
    "3^{10^{10}}-3^{10^{10}}",
    r"\frac{3^{10^{10}}}{3^{10^{10}}}",
    "1^{3^{10^{10}}}",
    r"2^{2 \cdot 10^{23}-10^{23}-10^{23}}",
    # a closed form exists
    r"\sum_{k=1}^{1000000000} k",
    r"\prod_{k=2}^{1000000} (1-\frac{1}{k})",
]
HOSTILE = [
    "9^{9^{9^9}}",
    "3^{3^{3^3}}",
    "-9^{9^{9^9}}",
    r"(\frac{3}{2})^{10^{10}}",
    "10^{10^{100}}",
    "10^{10^{1000}}",
    "2^{10^9}",
    r"(5 \cdot 10^6)!",
    "2^{100!}",
    "(100!)!",
    r"\binom{5000000}{500000}",
    r"\binom{10^{12}}{10^6}",
    "(x+y+z+5)^{200}",
    "(x+1)^{1000000}",
    r"x \cdot 3^{10^{10}}",
    r"\frac{9^{9^{9^9}}}{2}",
    "x^{9^{9^{9^9}}}",
    "x+9^{9^{9^9}}",
]


@pytest.mark.parametrize("answer", HONEST)
def test_what_can_be_computed_is_never_refused(answer: str) -> None:
    assert not is_explosive(answer)


@pytest.mark.parametrize("answer", HOSTILE)
def test_what_cannot_be_computed_is_refused_against_a_number_or_polynomial(answer: str) -> None:
    assert is_explosive(answer)
    for gold in ("5", r"\frac{1}{2}", "x^2+1", r"2\sqrt{3}"):
        assert is_hopeless(gold, answer)


@pytest.mark.parametrize("gold", ["(1,2)", "[0,1)", "x", "0", "x=3", r"\text{never}", "t(0,4]", "9^{9^{9^9}}", "e^x"])
def test_a_gold_that_tells_without_evaluating_is_left_to_math_verify(gold: str) -> None:
    assert not is_hopeless(gold, "10^{10^{10^{10}}}")


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ("10^{99999999}", "10^{100000001}"),  # 10^8 digits
        ("1700000!", "1800000!"),  # log10 n! ~ n log10(n / e): 9.86e6, 1.048e7 digits; the limit is 10^7
        ("(x+1)^{4998}", "(x+1)^{5000}"),  # n + 1 terms; the limit is 5,000
    ],
)
def test_limits_are_where_they_are_stated(below: str, above: str) -> None:
    assert not is_explosive(below)
    assert is_explosive(above)


def test_no_gold_of_the_benchmarks_is_refused(benchmark_data: Path) -> None:
    golds = [json.loads(line)["answer"] for path in benchmark_data.glob("*.jsonl") for line in path.open()]
    assert len(golds) > 20_000
    assert not any(is_explosive(prepare_pair("5", gold)[1]) for gold in golds)


def test_malformed_text_never_raises() -> None:
    rng = random.Random(0)
    pieces = [
        "9", "10", "^", "{", "}", "(", ")", "!", "x", "-", "/", r"\frac", r"\binom", r"\sqrt", r"\sum_{k=1}", r"\prod",
        "[", "]", "_", "=", " ", r"\cdot", r"\pi", "0", "1" * 350, "^{9", "\u00e9", "\u0664", "\\",
    ]  # fmt: skip
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 12)))
        assert is_explosive(text) in (True, False)
    for text in ["(" * 400, "9^{" * 150, "9^{" * 30 + "9" + "}" * 30, "!" * 400, "9" * 499, "((((9!)!)!)!)!"]:
        assert is_explosive(text) in (True, False)
    assert read_expression("(" * 400) is None
