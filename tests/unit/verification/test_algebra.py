"""Polynomials, radicals and multiples of pi: decided by normal forms, as math-verify decides them."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from sage_dpo.verification.algebra import compare_expressions, normal_form
from sage_dpo.verification.answers import prepare_pair
from sage_dpo.verification.expression import read_expression

X = (("x", 1),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # (x + 2)(x + 37) = x^2 + 39 x + 74
        ("(x+2)(x+37)", {(1, (("x", 2),)): 1, (1, X): 39, (1, ()): 74}),
        # 6 / sqrt 8 = 6 / (2 sqrt 2) = 3 sqrt 2 / 2
        (r"\frac{6}{\sqrt{8}}", {(2, ()): Fraction(3, 2)}),
        (r"\sqrt{\frac{3}{4}}", {(3, ()): Fraction(1, 2)}),
        # sqrt 6 sqrt 10 = 2 sqrt 15
        (r"\sqrt{6} \cdot \sqrt{10}", {(15, ()): 2}),
        (r"2\pi/37", {(1, (("pi", 1),)): Fraction(2, 37)}),
        (r"\frac{1}{x}", {(1, (("x", -1),)): 1}),
        ("(-X)^2", {(1, (("x", 2),)): 1}),  # math-verify lower-cases variables
        ("-x^2", {(1, (("x", 2),)): -1}),
        (r"(\sqrt{2}+1)(\sqrt{2}-1)", {(1, ()): 1}),
        ("x-x", {}),
        (r"x/2\cdot 4", {(1, X): 2}),
    ],
)
def test_normal_form(text: str, expected: dict[object, object]) -> None:
    assert normal_form(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x(2)",  # a function for math-verify
        "a(b)",
        "xy",  # a product or a word
        "2e",
        "i+1",
        "0.5x",
        "1/2x",  # x/2 for people, 1/(2x) for math-verify
        r"2\frac{1}{2}",  # a mixed number
        "2(3)",  # 5 for math-verify
        "2 3",
        "x^-1",
        "x^{1/2}",
        "x^2^3",
        "x_1",
        "x=5",
        "1,2",
        "|x|",
        r"\sin x",
        r"\sqrt{x}",
        r"\sqrt{-4}",
        r"\sqrt[3]{8}",
        r"\frac{1}{x+1}",
        r"\frac{1}{0}",
        "0^0",
        "5!",
        "2^{10^9}",
        "(x+y+z+w)^{20}",
        r"\sqrt{1000000000000007}",
        "(" * 50 + "x" + ")" * 50,
        "x+" * 300 + "1",
    ],
)
def test_what_has_another_reading_or_no_normal_form_is_left_to_math_verify(text: str) -> None:
    assert normal_form(text) is None
    assert compare_expressions("x+1", text) is None


@pytest.mark.parametrize(
    ("gold", "prediction", "expected"),
    [
        ("x^2+39x+74", "(x+37)(x+2)", True),
        (r"2\sqrt{37}", r"\sqrt{148}", True),
        (r"\frac{2\pi}{37}", r"\frac{2}{37}\pi", True),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        ("x^2+39x+74", "x^2+39x+75", False),
        (r"2\sqrt{37}", r"2\sqrt{41}", False),
        ("x+1", "y+1", False),
        (r"4\pi", "4", False),
        ("x", "2x/2", None),  # math-verify compares a lone variable by name
        ("1+10^{-20}", "1", None),  # within math-verify's tolerances
        (r"2\pi \cdot 10^{-24}", r"3\pi \cdot 10^{-24}", None),
        (r"\sqrt{10001}", r"\sqrt{10000}", None),
        ("x+10^{-20}", "x", None),
    ],
)
def test_comparison(gold: str, prediction: str, expected: bool | None) -> None:
    assert compare_expressions(gold, prediction) is expected
    assert compare_expressions(prediction, gold) is expected


def _random_sum(rng: random.Random) -> list[str]:
    factors = [
        "x",
        "y",
        "x^2",
        r"\pi",
        r"\sqrt{2}",
        r"\sqrt{12}",
        "(x+1)",
        "(2-y)",
        r"\frac{x}{3}",
        r"\frac{1}{\sqrt{5}}",
    ]
    return [
        rf"{rng.randint(2, 9)} \cdot " + r" \cdot ".join(rng.choices(factors, k=rng.randint(1, 3)))
        for _ in range(rng.randint(1, 4))
    ]


def test_normal_form_does_not_depend_on_order_or_brackets() -> None:
    rng = random.Random(0)
    for _ in range(300):
        terms = _random_sum(rng)
        text = "+".join(terms)
        assert normal_form(text) is not None
        assert normal_form("+".join(rng.sample(terms, len(terms)))) == normal_form(text)
        assert normal_form(f"-(-({text}))") == normal_form(text)
        assert normal_form(f"({text}) - ({text})") == {}
        assert normal_form(f"({text})^2") == normal_form(f"({text})({text})")
        assert compare_expressions(f"{text}+1", text) is not True


def test_verdicts_are_those_of_math_verify() -> None:
    from sage_dpo.verification.judge import judge

    rng = random.Random(1)
    checked = 0
    for _ in range(150):
        terms = _random_sum(rng)
        gold = "+".join(terms)
        other = "+".join(rng.sample(terms, len(terms))) if rng.random() < 0.5 else "+".join(_random_sum(rng))
        prepared = prepare_pair(gold, other)[:2]
        verdict = compare_expressions(*prepared)
        if verdict is not None:
            assert judge(gold, other).kind.value == ("correct" if verdict else "wrong"), (gold, other)
            checked += 1
    assert checked > 100


def test_trees_of_what_only_the_guard_reads() -> None:
    for text in ("(5 \\cdot 10^6)!", r"\binom{5}{2}", r"\sum_{k=1}^{n} \frac{1}{k^2}", r"\prod_{k=1}^{9} (k+1)"):
        assert read_expression(text) is not None
        assert normal_form(text) is None
