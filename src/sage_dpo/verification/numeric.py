"""Plain numbers as exact fractions, and when two of them are the same answer.

Why not leave numbers to math-verify: it compares small ones absolutely (`4.6e-24` equals `9.9e-24`) and drops bases
(`52_8` equals `52_9`), and a child process per `18` is a waste. Everything here is pure and bounded: a number with an
absurd exponent or length is "not plain" and goes to the worker with its deadline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_DIGITS = 400
_MAX_EXPONENT = 400
_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_POWER_OF_TEN = r"10(?:\^\{(?P<exponent>[-+]?\d+)\}|\^(?P<exponent_digit>\d))"
_SCIENTIFIC = re.compile(rf"(?P<sign>[-+]?)(?:(?P<mantissa>{_DECIMAL})(?:\\times|\\cdot|\*))?{_POWER_OF_TEN}")
_PLAIN = re.compile(rf"(?P<sign>[-+]?)(?P<digits>{_DECIMAL})(?P<base>_\{{?\d+\}}?)?(?P<percent>\\?%)?")
_FRACTION = re.compile(
    rf"(?P<sign>[-+]?)(?P<whole>\d+(?=\\frac|\x20))?\x20?"
    rf"(?:\\frac\{{(?P<top>[-+]?{_DECIMAL})\}}\{{(?P<bottom>[-+]?{_DECIMAL})\}}"
    rf"|(?P<slash_top>{_DECIMAL})/(?P<slash_bottom>{_DECIMAL}))"
    r"(?P<percent>\\?%)?"
)
_THOUSANDS = re.compile(r"([-+]?)(\d{1,3}(?:(?:(?:,|\{,\})\d{3})+|(?:\x20\d{3})+))(\.\d+)?(\\?%)?")


@dataclass(frozen=True, slots=True)
class PlainNumber:
    """A number as written in an answer.

    Attributes:
        value: the exact value; of the digits read as decimal ones if a base is given; of `17` if `17\\%` is written.
        is_decimal: written with a decimal point, hence perhaps rounded.
        is_scientific: written as `m \\times 10^{n}`, hence perhaps rounded.
        is_percent: followed by a percent sign.
        base: the subscript of `52_8`, else `None`.
    """

    value: Fraction
    is_decimal: bool = False
    is_scientific: bool = False
    is_percent: bool = False
    base: int | None = None

    @property
    def based_value(self) -> Fraction | None:
        """The value in its base; `None` if the digits are not of that base, or it has more than 36."""
        try:
            return Fraction(int(str(self.value), self.base or 10))
        except ValueError:
            return None


def parse_number(text: str) -> PlainNumber | None:
    """Read `text` (canonical form, see `normalization.canonical`) as a plain number; `None` if it is not one."""
    if len(text) > _MAX_DIGITS:
        return None
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    if match := _THOUSANDS.fullmatch(text):
        sign, groups, decimals, percent = match.groups(default="")
        text = sign + re.sub(r"\D", "", groups) + decimals + percent
    if match := _PLAIN.fullmatch(text):
        return _plain(match)
    if match := _SCIENTIFIC.fullmatch(text):
        return _scientific(match)
    if match := _FRACTION.fullmatch(text):
        return _fraction(match)
    return None


def numbers_equal(gold: PlainNumber, prediction: PlainNumber) -> bool:
    """Whether two plain numbers are the same answer.

    Integers and fractions must agree exactly. Once a decimal point is written, they may differ by rounding in the sixth
    decimal (values from 0.01 up, math-verify's rule) or by a millionth of the larger (smaller values, powers of ten).
    A percent sign may be left out (`17\\%` is 17 is 0.17). A base may be left out, and another one may be named with
    the digits that it needs.

    Interpretation: for the gold `52_8` a bare 42 is wrong. Such golds are answers of "convert 42 to base 8".
    """
    if gold.base is not None or prediction.base is not None:
        if gold.base == prediction.base or gold.base is None or prediction.base is None:
            is_same = gold.value == prediction.value
            return is_same or (gold.base is None and prediction.based_value == gold.value)
        return gold.based_value is not None and gold.based_value == prediction.based_value
    if _close(gold, prediction, gold.value, prediction.value):
        return True
    if gold.is_percent and not prediction.is_percent:
        return _close(gold, prediction, gold.value / 100, prediction.value)
    if prediction.is_percent and not gold.is_percent:
        return _close(gold, prediction, gold.value, prediction.value / 100)
    return False


def _close(a: PlainNumber, b: PlainNumber, x: Fraction, y: Fraction) -> bool:
    scale = max(abs(x), abs(y))
    is_scientific = a.is_scientific or b.is_scientific
    are_integers = x.denominator == y.denominator == 1
    if not is_scientific and (are_integers or not (a.is_decimal or b.is_decimal)):
        return x == y
    if is_scientific or scale < Fraction(1, 100):
        return abs(x - y) <= scale / 1_000_000
    return abs(x - y) <= Fraction(1, 2_000_000)


def _plain(match: re.Match[str]) -> PlainNumber | None:
    digits, base = match["digits"], match["base"]
    if base is not None and (not digits.isdigit() or match["percent"]):
        return None
    value = Fraction(match["sign"] + digits)
    return PlainNumber(
        value,
        is_decimal="." in digits.rstrip("."),
        is_percent=match["percent"] is not None,
        base=int(base.strip("_{}")) if base else None,
    )


def _scientific(match: re.Match[str]) -> PlainNumber | None:
    exponent = int(match["exponent"] or match["exponent_digit"])
    if abs(exponent) > _MAX_EXPONENT:
        return None
    mantissa = match["mantissa"] or "1"
    value = Fraction(match["sign"] + mantissa) * Fraction(10) ** exponent
    return PlainNumber(value, is_decimal="." in mantissa, is_scientific=match["mantissa"] is not None)


def _fraction(match: re.Match[str]) -> PlainNumber | None:
    top = match["top"] or match["slash_top"]
    bottom = match["bottom"] or match["slash_bottom"]
    denominator = Fraction(bottom)
    whole = match["whole"]
    if denominator == 0 or (whole and ("-" in top or "-" in bottom)):
        return None
    magnitude = Fraction(whole or 0) + Fraction(top) / denominator
    is_decimal = any("." in part.rstrip(".") for part in (top, bottom))
    return PlainNumber(
        -magnitude if match["sign"] == "-" else magnitude, is_decimal, is_percent=match["percent"] is not None
    )
