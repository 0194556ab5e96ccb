"""Answers whose evaluation is hopeless, told by their text: no sympy, no large number is ever computed. Pure.

    9^{9^{9^9}}     (5 \\cdot 10^6)!     \\binom{5000000}{500000}     (x+y+z+5)^{200}

math-verify reads such an answer in milliseconds and then evaluates it exactly, until a deadline ends that. The limits
below are those from which on it takes more than 3 seconds of CPU time whatever the gold, with a margin; what is under
them, and whatever is not in the grammar of `expression`, is left to the deadline. So are sums and products over ranges:
sympy knows a closed form, or a fast way to the value, of too many of them.
"""

from __future__ import annotations

import math

from sage_dpo.verification.algebra import count_terms, normal_form
from sage_dpo.verification.expression import Node, read_expression

MAX_POWER_DIGITS = 1e8
"""Decimal digits of an integer power. 2^(10^8), the easiest base, has 3 * 10^7 and takes math-verify 1 to 3 s."""

MAX_FACTORIAL_DIGITS = 1e7
"""Decimal digits of a factorial. (10^6)! has 5.6 * 10^6 and takes more than 8 s."""

MAX_BINOMIAL_DIGITS = 3e5
"""Decimal digits of a binomial coefficient, which is computed as it is read: 4.2 s at 97,000 digits."""

MAX_TERMS = 5_000
"""Terms of an expanded power. (x+y+3)^50 has 1,326 and takes 7 s, (x+y+z+3)^16 has 969 and takes 4.5 s."""

_LN_10 = math.log(10.0)
_MAX_LOG10 = 300.0
"""Numbers up to 10^300 are computed as floats; of larger ones only the logarithm is kept."""

_Size = tuple[int, float]
"""(sign, log10 of the absolute value) of a constant; (0, -inf) is zero, (1, inf) beyond all floats."""


class _UnknownError(Exception):
    """Not a rational constant, or its size cannot be told."""


def is_hopeless(gold: str, prediction: str) -> bool:
    """Whether comparing two prepared answers (`answers.prepare_pair`) is sure to run into the deadline.

    Only against a gold that has a normal form: math-verify tells such an answer from an interval, a matrix or a lone
    variable without evaluating it. Nor against 0, from which no difference is taken.
    """
    expected = read_expression(gold)
    if expected is None or expected.kind == "symbol" or not normal_form(gold):
        return False
    return is_explosive(prediction)


def is_explosive(text: str) -> bool:
    """Whether evaluating a normalised answer means an exact result that is too large; false if it is unreadable.

    Only where nothing can make that result vanish: not in a denominator, beside a zero or another power in a product,
    beside a second such result in a sum, in the base of another power.
    """
    tree = read_expression(text)
    return tree is not None and _is_exposed(tree)


def _is_exposed(node: Node) -> bool:
    if _is_huge(node):
        return True
    parts = node.parts
    match node.kind:
        case "sum":
            return sum(any(map(_is_huge, part.walk())) for part in parts) == 1 and any(map(_is_exposed, parts))
        case "product":
            exposed = [part for part in parts if _is_exposed(part)]
            return len(exposed) == 1 and all(_is_harmless(part) for part in parts if part is not exposed[0])
        case "quotient":
            return _is_exposed(parts[0]) and _is_harmless(parts[1])
        case "power":
            has_variable = any(part.kind == "symbol" for part in parts[0].walk())
            return has_variable and _is_harmless(parts[0]) and _is_exposed(parts[1])
    return False


def _is_harmless(node: Node) -> bool:
    """Whether a factor cannot cancel a large one: it is not zero and has no powers."""
    if any(part.kind not in ("number", "symbol", "pi", "sum", "product", "root") for part in node.walk()):
        return False
    try:
        return _size(node)[0] != 0
    except _UnknownError:
        return any(part.kind in ("symbol", "pi", "root") for part in node.walk())


def _is_huge(node: Node) -> bool:
    """Whether the last operation of `node` has a result over the limits."""
    try:
        match node.kind:
            case "power":
                return _digits_of_power(*node.parts) > MAX_POWER_DIGITS
            case "factorial":
                return _size(node)[1] > MAX_FACTORIAL_DIGITS
            case "binomial":
                return _size(node)[1] > MAX_BINOMIAL_DIGITS
    except _UnknownError:
        return node.kind == "power" and _terms_of_power(*node.parts) > MAX_TERMS
    return False


def _digits_of_power(base: Node, exponent: Node) -> float:
    """Digits before the decimal point: a result near 0 is told from a gold without being computed."""
    _, log10 = _size(base)
    power = _value(_size(exponent, integers_only=True))
    return log10 * power if log10 > 0.0 and power > 0.0 else 0.0


def _terms_of_power(base: Node, exponent: Node) -> float:
    """Return the number of terms of (t_1 + ... + t_m)^n: n + m - 1 over m - 1; 0 if that does not apply."""
    terms = count_terms(base)
    try:
        power = _value(_size(exponent, integers_only=True))
    except _UnknownError:
        return 0.0
    if terms < 2 or power < 2.0:
        return 0.0
    return 10.0 ** min(_log10_binomial(power + terms - 1, terms - 1), _MAX_LOG10)


def _size(node: Node, integers_only: bool = False) -> _Size:
    """Return sign and magnitude of a rational constant. Raises `_UnknownError` for anything else."""
    if node.kind == "number":
        return _of_float(node.value) if abs(node.value) < 10**300 else (1, math.log10(node.value))
    if node.kind not in ("sum", "product", "quotient", "power", "factorial", "binomial"):
        raise _UnknownError
    if node.kind == "quotient" and integers_only:
        raise _UnknownError
    sizes = [_size(part, integers_only) for part in node.parts]
    match node.kind:
        case "sum":
            return _sum(sizes)
        case "product":
            return _known(math.prod(sign for sign, _ in sizes), sum(log10 for _, log10 in sizes))
        case "quotient" if sizes[1][0]:
            return _known(sizes[0][0] * sizes[1][0], sizes[0][1] - sizes[1][1])
        case "power" if sizes[0][0] > 0:
            return _known(1, sizes[0][1] * _value(sizes[1]) if sizes[0][1] else 0.0)
        case "factorial" if sizes[0][0] >= 0:
            return _known(1, _log10_factorial(_value(sizes[0])))
        case "binomial" if sizes[0][0] >= 0 and sizes[1][0] >= 0:
            return _known(1, _log10_binomial(_value(sizes[0]), _value(sizes[1])))
    raise _UnknownError


def _sum(sizes: list[_Size]) -> _Size:
    if all(log10 < _MAX_LOG10 for _, log10 in sizes):
        values = [sign * 10.0**log10 for sign, log10 in sizes]
        total = math.fsum(values)
        if abs(total) < 1e-6 * max(map(abs, values)):
            raise _UnknownError  # perhaps nothing but rounding
        return _of_float(total)
    largest, second = sorted(sizes, key=lambda size: size[1], reverse=True)[:2]
    if largest[1] - second[1] > 1.0:
        return largest
    raise _UnknownError  # two large numbers may cancel


def _of_float(value: float) -> _Size:
    return (int(math.copysign(1, value)), math.log10(abs(value))) if value else (0, -math.inf)


def _value(size: _Size) -> float:
    sign, log10 = size
    return sign * (10.0**log10 if log10 < _MAX_LOG10 else math.inf) if sign else 0.0


def _known(sign: int, log10: float) -> _Size:
    if math.isnan(log10):  # 0 * infinity
        raise _UnknownError
    return (sign, log10) if sign else (0, -math.inf)


def _log10_factorial(n: float) -> float:
    return math.lgamma(n + 1.0) / _LN_10 if n < 1e300 else math.inf


def _log10_binomial(n: float, k: float) -> float:
    """log10 of n over k, a lower bound: (n / k)^k, with the smaller of k and n - k."""
    k = min(k, n - k)
    if k <= 0.0 or math.isnan(k):
        return 0.0
    return k * (math.log10(n) - math.log10(k)) if n < math.inf and k < math.inf else math.inf
