"""Plain numbers: exact values worked by hand, and when two count as one answer."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dpo.verification.answers import compare_answers
from sage_dpo.verification.normalization import normalize_answer
from sage_dpo.verification.numeric import numbers_equal, parse_number
from sage_dpo.verification.units import split_unit, units_conflict


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", Fraction(18)),
        ("-0.25", Fraction(-1, 4)),
        ("1,234,567.5", Fraction(2_469_135, 2)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"-2\frac{5}{8}", Fraction(-21, 8)),  # -(2 + 5/8), not -2 + 5/8
        ("1 4/5", Fraction(9, 5)),
        (r"4.5\times10^{3}", Fraction(4500)),
        ("10^{-2}", Fraction(1, 100)),
        ("10^2", Fraction(100)),
    ],
)
def test_number_has_its_exact_value(text: str, value: Fraction) -> None:
    number = parse_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text",
    ["", "x", "1+1", "1/0", r"\frac{1}{0}", "12,34", "1.2.3", "(5", "10^{9999999999}", "9" * 1000, "1e5", "0x10"],
)
def test_what_is_not_a_plain_number_is_left_alone(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("gold", "prediction", "expected"),
    [
        # sixth decimal: |1/3 - 0.333333| = 3.3e-7 <= 5e-7, |1/3 - 0.33333| = 3.3e-6 > 5e-7
        (r"\frac{1}{3}", "0.333333", True),
        (r"\frac{1}{3}", "0.33333", False),
        # integers are exact however large: 12345678 and 12345679 differ by 8e-8 of themselves
        ("12345678", "12345679.0", False),
        # below 0.01 and for powers of ten the difference is relative
        ("0.0000001", "0.0000002", False),
        (r"4.6\times10^{-24}", r"9.9\times10^{-24}", False),
        (r"6.02214076\times10^{23}", r"6.0221408\times10^{23}", True),  # relative difference 7e-9
        # percent signs and bases
        (r"17\%", "0.17", True),
        (r"17\%", "1700", False),
        ("52_8", "52", True),
        ("52_8", "53", False),
        ("52_8", "52_9", False),
    ],
)
def test_numbers_equal_row(gold: str, prediction: str, expected: bool) -> None:
    first, second = parse_number(gold), parse_number(prediction)
    assert first is not None
    assert second is not None
    assert numbers_equal(first, second) is expected
    assert numbers_equal(second, first) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (r"20 \text{ m}", ("20", "m")),
        (r"864 \mbox{ inches}^2", ("864", "in^2")),
        (r"9 \text{ square feet}", ("9", "ft^2")),
        ("20 cm^{2}", ("20", "cm^2")),
        (r"\$5.50", ("5.50", "dollar")),
        ("15 apples", ("15", "apple")),
        ("6m", ("6m", "")),  # may be a variable
        ("c^2-4km", ("c^2-4km", "")),
        ("2 dozen", ("2 dozen", "")),
        (r"5 \text{ pm}", (r"5 \text{ pm}", "")),
    ],
)
def test_split_unit_row(answer: str, expected: tuple[str, str]) -> None:
    assert split_unit(answer) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("5 cents", r"5\text{ dollars}", True),
        ("5 cats", "5 dogs", True),
        ("5 red apples", "5 apples", False),
        ("5 cats", "5", False),
        (r"5\text{ m/s}", "5 meters per second", False),
        (r"5\text{ m} \cdot \text{s}^{-1}", r"5\text{ m/s}", False),
        (r"5\,\frac{\text{m}}{\text{s}}", r"5\text{ m/s}", False),
        (r"5\text{ m/s}", r"5\text{ m}", True),
        ("5 square feet", r"5\text{ ft}^2", False),
        ("5 square feet", "5 cubic feet", True),
        (r"5\text{ units}^2", r"5\text{ units}", True),
        (r"5\text{ units}", r"5\text{ cm}", False),
        (r"\$5", r"5\text{ dollars per hour}", False),
        ("\u00a35", r"\$5", True),
        ("5 mph", r"5\text{ miles per hour}", False),
        ("5 miles", "5 miles in total", False),
    ],
)
def test_units_conflict_if_they_are_not_one(first: str, second: str, expected: bool) -> None:
    (_, unit), (_, other) = split_unit(first), split_unit(second)
    assert units_conflict(unit, other) is units_conflict(other, unit) is expected


def test_a_base_may_be_left_out_but_the_value_is_not_its_digits() -> None:
    # "convert 42 to base 8": 42 is the question, not the answer
    assert compare_answers("52_8", "42") is False
    assert compare_answers("16", "10_{16}") is True
    assert compare_answers("1011_2", "13_8") is True
    assert compare_answers("1011_2", "13_9") is False


@pytest.mark.parametrize("answer", [r"\frac34", "4.5e33", r"\$32,\!348", r"\{x|-2\leq x < 1\}", "2 or -2", r"90^\circ"])
def test_normalization_is_idempotent(answer: str) -> None:
    assert normalize_answer(normalize_answer(answer)) == normalize_answer(answer)


def test_empty_answer_is_not_correct_for_an_empty_gold() -> None:
    assert compare_answers("", "") is False


_PIECES = st.sampled_from(
    [
        *"0123456789.,-+/^_{}()[]|%$:;= xmtE",
        "\\frac",
        "\\text{",
        "\\circ",
        "\\{",
        "\\}",
        " or ",
        " cm",
        "\\%",
        "e-",
        "\\times 10^{",
    ]
)
ANSWERS = st.lists(_PIECES, max_size=20).map("".join)


@given(ANSWERS, ANSWERS)
def test_no_pair_of_answers_raises(gold: str, prediction: str) -> None:
    assert compare_answers(gold, prediction) in (True, False, None)


@given(ANSWERS.filter(str.strip))
def test_every_answer_accepts_itself(answer: str) -> None:
    assert compare_answers(answer, f" {answer} ") is True


@given(st.fractions(), st.fractions())
def test_fractions_are_compared_exactly(x: Fraction, y: Fraction) -> None:
    texts = [f"\\frac{{{value.numerator}}}{{{value.denominator}}}" for value in (x, y)]
    assert compare_answers(*texts) is (x == y)
