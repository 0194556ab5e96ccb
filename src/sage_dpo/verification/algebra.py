"""Exact comparison of small polynomials, radicals and multiples of pi: what plain numbers are in `numeric`. Pure.

    (x+2)(x+37) -> {x^2: 1, x: 39, 1: 74}        \\frac{6}{\\sqrt{8}} -> {sqrt(2): 3/2}        2\\pi/37 -> {pi: 2/37}

A normal form is a sum of terms `coefficient * sqrt(radicand) * letters^powers`, with rational coefficients, square-free
radicands and pi as one more letter. Square roots of different square-free integers are linearly independent over the
rationals, and pi is transcendental: two expressions are equal exactly if their normal forms are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction
from functools import lru_cache

from sage_dpo.verification.expression import Node, read_expression

_MAX_TERMS = 100
_MAX_POWER = 40
_MAX_BITS = 2_000
_MAX_RADICAND = 10**8  # trial division up to 10^4
_NEARLY_EQUAL = 1e-3
_TINY = 1e-6

Monomial = tuple[int, tuple[tuple[str, int], ...]]
"""(square-free radicand, ((letter, power), ...) in alphabetical order, no power 0)."""
NormalForm = dict[Monomial, Fraction]
_ONE: Monomial = (1, ())


class _TooHardError(Exception):
    """Outside of what has a normal form here, or too large for it."""


def compare_expressions(gold: str, prediction: str) -> bool | None:
    """Whether two normalised answers are equal as expressions; `None` if one has no normal form, or they are close.

    Interpretation: expressions that differ by less than math-verify's tolerances (`1 + 10^{-20}` against 1) are its to
    judge: those are close whose values differ by at most a thousandth or are both at most a millionth, or, if they have
    variables, whose coefficients all differ by at most a millionth.
    """
    expected, given = normal_form(gold), normal_form(prediction)
    if expected is None or given is None:
        return None
    if expected == given:
        # math-verify compares a lone variable by its name only: x is not 2x/2 there
        return None if _is_variable(gold) or _is_variable(prediction) else True
    return None if _are_close(expected, given) else False


@lru_cache(maxsize=2048)
def normal_form(text: str) -> NormalForm | None:
    """Return the normal form of a normalised answer, without terms of coefficient 0; `None` if it has none here."""
    tree = read_expression(text)
    if tree is None:
        return None
    try:
        return _expand(tree)
    except _TooHardError:
        return None


def count_terms(tree: Node) -> int:
    """Return the number of terms of an expression's normal form; 0 if it has none here."""
    try:
        return len(_expand(tree))
    except _TooHardError:
        return 0


def _is_variable(text: str) -> bool:
    tree = read_expression(text)
    return tree is not None and tree.kind == "symbol"


def _expand(node: Node) -> NormalForm:
    match node.kind:
        case "number":
            return _constant(Fraction(node.value))
        case "symbol":
            return {(1, ((node.name, 1),)): Fraction(1)}
        case "pi":
            return {(1, (("pi", 1),)): Fraction(1)}
        case "sum":
            return _add(*map(_expand, node.parts))
        case "product":
            return _multiply_all([_expand(part) for part in node.parts])
        case "quotient":
            return _multiply(_expand(node.parts[0]), _inverse(_expand(node.parts[1])))
        case "power":
            return _power(_expand(node.parts[0]), _expand(node.parts[1]))
        case "root" if node.value == 2:
            return _square_root(_expand(node.parts[0]))
    raise _TooHardError


def _constant(value: Fraction) -> NormalForm:
    return {_ONE: value} if value else {}


def _rational(form: NormalForm) -> Fraction:
    """The value of a rational constant."""
    if set(form) - {_ONE}:
        raise _TooHardError
    return form.get(_ONE, Fraction(0))


def _add(*forms: NormalForm) -> NormalForm:
    total: defaultdict[Monomial, Fraction] = defaultdict(Fraction)
    for form in forms:
        for monomial, coefficient in form.items():
            total[monomial] += coefficient
    return _checked({monomial: coefficient for monomial, coefficient in total.items() if coefficient})


def _multiply(first: NormalForm, second: NormalForm) -> NormalForm:
    if len(first) * len(second) > _MAX_TERMS**2:
        raise _TooHardError
    total: defaultdict[Monomial, Fraction] = defaultdict(Fraction)
    for (radicand, powers), coefficient in first.items():
        for (other_radicand, other_powers), other_coefficient in second.items():
            common = math.gcd(radicand, other_radicand)
            monomial = (radicand * other_radicand // common**2, _merge(powers, other_powers))
            total[monomial] += coefficient * other_coefficient * common
    return _checked({monomial: coefficient for monomial, coefficient in total.items() if coefficient})


def _multiply_all(forms: list[NormalForm]) -> NormalForm:
    product = _constant(Fraction(1))
    for form in forms:
        product = _multiply(product, form)
    return product


def _merge(powers: tuple[tuple[str, int], ...], others: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    merged = dict(powers)
    for letter, power in others:
        merged[letter] = merged.get(letter, 0) + power
    return tuple(sorted((letter, power) for letter, power in merged.items() if power))


def _inverse(form: NormalForm) -> NormalForm:
    """1 / form, for a single term: 1 / sqrt(n) = sqrt(n) / n."""
    if len(form) != 1:
        raise _TooHardError
    ((radicand, powers), coefficient) = next(iter(form.items()))
    return {(radicand, tuple((letter, -power) for letter, power in powers)): 1 / (coefficient * radicand)}


def _power(base: NormalForm, exponent: NormalForm) -> NormalForm:
    power = _rational(exponent)
    if power.denominator != 1 or not base:
        raise _TooHardError
    if set(base) == {_ONE}:
        bits = max(base[_ONE].numerator.bit_length(), base[_ONE].denominator.bit_length())
        if abs(power) * bits > _MAX_BITS:
            raise _TooHardError
        return _constant(base[_ONE] ** int(power))
    if abs(power) > _MAX_POWER:
        raise _TooHardError
    return _multiply_all([base if power > 0 else _inverse(base)] * abs(int(power)))


def _square_root(form: NormalForm) -> NormalForm:
    """sqrt(p / q) = sqrt(p q) / q, for a rational number that is not negative."""
    value = _rational(form)
    inner = value.numerator * value.denominator
    if inner < 0 or inner > _MAX_RADICAND:
        raise _TooHardError
    if inner == 0:
        return {}
    outer, divisor = 1, 2
    while divisor * divisor <= inner:
        while inner % (divisor * divisor) == 0:
            inner //= divisor * divisor
            outer *= divisor
        divisor += 1
    return {(inner, ()): Fraction(outer, value.denominator)}


def _checked(form: NormalForm) -> NormalForm:
    """Refuse what would take long to go on with, or whose value does not fit a float."""
    if len(form) > _MAX_TERMS:
        raise _TooHardError
    for (radicand, powers), coefficient in form.items():
        bits = max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length())
        if radicand > _MAX_RADICAND or bits > _MAX_BITS or any(abs(power) > _MAX_POWER for _, power in powers):
            raise _TooHardError
    return form


def _are_close(first: NormalForm, second: NormalForm) -> bool:
    try:
        x, y = _by_variables(first), _by_variables(second)
    except OverflowError:
        return True
    if set(x) | set(y) <= {()}:
        value, other = x.get((), 0.0), y.get((), 0.0)
        scale = max(abs(value), abs(other))
        return abs(value - other) <= _NEARLY_EQUAL * scale or scale <= _TINY
    return all(abs(x.get(letters, 0.0) - y.get(letters, 0.0)) <= _TINY for letters in set(x) | set(y))


def _by_variables(form: NormalForm) -> dict[tuple[tuple[str, int], ...], float]:
    """Return each product of variables with its coefficient, roots and pi evaluated."""
    coefficients: defaultdict[tuple[tuple[str, int], ...], float] = defaultdict(float)
    for (radicand, powers), coefficient in form.items():
        variables = tuple((letter, power) for letter, power in powers if letter != "pi")
        coefficients[variables] += float(coefficient) * math.sqrt(radicand) * math.pi ** dict(powers).get("pi", 0)
    return dict(coefficients)
