"""One answer against one gold with math-verify. Runs in the worker only: it may hang, eat memory or kill the process.

Importing this module imports sympy and math-verify (about one second); the parent process never does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import (
    Derivative,
    Eq,
    Expr,
    Float,
    I,
    Integral,
    Ne,
    Pow,
    Product,
    Rational,
    Sum,
    Symbol,
    UnevaluatedExpr,
    simplify,
    solve,
)
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import BooleanAtom

from sage_dpo.records import VerdictKind
from sage_dpo.verification.answer_types import AnswerType
from sage_dpo.verification.answers import compare_answers
from sage_dpo.verification.protocol import Judgement

logging.getLogger("math_verify").setLevel(logging.CRITICAL)
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)

# units=False: math-verify's own list drops any trailing `m`, `t`, `c`, so that 6 would be accepted for the formula 6m.
_LATEX = LatexExtractionConfig(
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    )
)
_BOXED_ONLY = (_LATEX,)
_DIGITS = 220
_NOT_EVALUATED = (UnevaluatedExpr, Integral, Sum, Product, Derivative, AppliedUndef)
_ANYTHING = (_LATEX, ExprExtractionConfig())


def judge(gold: str, prediction: str, kind: AnswerType | None = None) -> Judgement:
    """Compare an extracted answer with the gold: the rules of `compare_answers`, with math-verify for the parts.

    A gold that math-verify cannot read (prose, `t(0,4]`) proves nothing about an answer spelled otherwise: unparseable.
    """
    unreadable = False

    def same(gold: str, prediction: str) -> bool:
        nonlocal unreadable
        expected = _parse_answer(gold)
        if all(isinstance(value, str) for value in expected):
            unreadable = True
            return False
        return _any_equal(expected, _parse_answer(prediction))

    if compare_answers(gold, prediction, kind, same):
        return Judgement(VerdictKind.CORRECT, prediction)
    if unreadable:
        return Judgement(VerdictKind.UNPARSEABLE, prediction, "math-verify cannot read the gold answer")
    return Judgement(VerdictKind.WRONG, prediction)


def judge_unmarked(gold: str, tail: str, kind: AnswerType | None = None) -> Judgement:
    """Look for the last formula or number in the tail of a completion that marks no answer, then compare it."""
    found = [value for value in _parse(tail, _ANYTHING) if isinstance(value, str)]
    if not found:
        return Judgement(VerdictKind.UNPARSEABLE)
    return judge(gold, found[0], kind)


@lru_cache(maxsize=1024)  # parsing takes 20 ms, and the samples of a problem share their gold
def _parse_answer(answer: str) -> tuple[Any, ...]:
    """Parse in a box: bare, `2\\sqrt{3}` would be read as 2. `2 3` is a list here; math-verify adds it up to 5."""
    boxed = "\\boxed{" + re.sub(r"(?<![_^{\w])(\d+) (?=\d+(?![\d/]))", r"\1, ", answer) + "}"
    return tuple(_prepared(value) for value in _parse(boxed))


def _parse(text: str, config: tuple[Any, ...] = _BOXED_ONLY) -> tuple[Any, ...]:
    """math-verify's parse: [expression, its text]. The deadline is the worker's own alarm, hence none here."""
    return tuple(parse(text, extraction_config=config, parsing_timeout=None, raise_on_error=True))


def _prepared(value: Any) -> Any:
    """`i` as the imaginary unit where nothing else is unknown, odd roots of negative numbers as real ones."""
    if not isinstance(value, Expr):
        return value
    if value.free_symbols and {str(symbol) for symbol in value.free_symbols} <= {"i"}:
        value = value.subs({symbol: I for symbol in value.free_symbols})
    return value.replace(_is_odd_root, lambda power: -((-power.base) ** power.exp))


def _is_odd_root(value: Any) -> bool:
    return bool(
        value.is_Pow and value.exp.is_Rational and value.exp.q % 2 and value.exp.q > 1 and value.exp.p == 1
        and value.base.is_negative
    )  # fmt: skip


def _any_equal(expected: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether any reading of the answer equals any reading of the gold; an error in one comparison is raised last."""
    failure: Exception | None = None
    for gold in expected:
        for value in given:
            try:
                if _equal(gold, value):
                    return True
            except Exception as error:  # sympy raises nearly anything; another reading may still settle it
                failure = error
    if failure is not None:
        raise failure
    return False


def _equal(gold: Any, value: Any) -> bool:
    """math-verify's verdict on two readings, without the wrong verdicts that we have seen."""
    if isinstance(gold, BooleanAtom) or isinstance(value, BooleanAtom):
        return False  # `x=x+1` is read as false
    if isinstance(gold, Ne) or isinstance(value, Ne):  # math-verify raises on these
        return isinstance(gold, Ne) and isinstance(value, Ne) and _equal(gold.lhs - gold.rhs, value.lhs - value.rhs)
    if isinstance(gold, Eq) and isinstance(value, Eq):
        if gold.lhs == value.lhs and not gold.rhs.has(gold.lhs) and not value.rhs.has(gold.lhs):
            return _equal(gold.rhs, value.rhs)  # `y = f` against `y = g`: solving for x as well takes for ever
        return _verify(gold, value) and _is_same_equation(gold, value)
    if _are_numbers(gold, value):
        difference = _relative_difference(gold, value)
        if difference is None:
            return _verify(gold, value)
        # Far apart: no need to simplify. Equal for math-verify, but only by underflow: 2e-24 pi is not 3e-24 pi.
        if difference >= 1e-3:
            return False
        if not ((difference <= 1e-4 and _verify(gold, value)) or _is_same_constant(gold, value)):
            return False
        x, y = gold.doit(), value.doit()
        return x == y or not (x.is_Rational and y.is_Rational)  # 1 is not 1+10^{-400}
    if _differ_at_a_point(gold, value):
        return False
    return _verify(gold, value) or _is_same_root(gold, value)


def _verify(gold: Any, value: Any) -> bool:
    return bool(verify([gold], [value], allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True))


def _is_same_equation(gold: Eq, value: Eq) -> bool:
    """Reject equality of empty solution lists: math-verify takes x^2+4x+20=0 for x^2+18x+86=0 (no real roots)."""
    if not (gold.lhs - gold.rhs).free_symbols:
        return gold.rhs == value.rhs  # `x=x+1`: nothing is left to solve for
    ratio = simplify((gold.lhs - gold.rhs) / (value.lhs - value.rhs))
    if ratio.is_number:
        return bool(ratio.is_finite) and not ratio.is_zero
    return bool(solve(gold, gold.free_symbols))


def _are_numbers(*values: Any) -> bool:
    """Whether all are constants, and none is written with `%`."""
    return all(getattr(value, "is_number", False) and not value.has(UnevaluatedExpr) for value in values)


def _relative_difference(gold: Expr, value: Expr, point: dict[Any, Any] | None = None) -> float | None:
    """abs(x - y) / max(abs(x), abs(y)) of two constants, or at a point; `None` unless both are finite.

    In sympy's numbers: Python's have no 1/2004!, it would be zero.
    """
    x, y = (expression.evalf(15, subs=point) for expression in (gold, value))
    sizes = abs(x), abs(y)
    if not all(size.is_Float or size.is_Rational for size in sizes):
        return None
    scale = max(sizes)
    if not scale.is_finite or (min(sizes) == 0 and scale < 1e-100):  # an exact zero evaluates to noise
        return None
    return float(abs(x - y) / scale) if scale > 0 else 0.0


def _is_same_constant(gold: Expr, value: Expr) -> bool:
    """Whether two constants without decimals agree to 200 digits. Sympy does not simplify `\\cos\\frac{\\pi}{7}...`."""
    if gold.has(Float) or value.has(Float):
        return False
    x, y = (expression.evalf(_DIGITS) for expression in (gold, value))
    difference = abs(x - y)
    return bool(difference.is_comparable and difference <= abs(x) * Rational(1, 10 ** (_DIGITS - 20)))


def _differ_at_a_point(gold: Any, value: Any) -> bool:
    """Whether two expressions with variables differ clearly at positive values of these: no need to simplify."""
    if not (isinstance(gold, Expr) and isinstance(value, Expr)) or any(e.has(*_NOT_EVALUATED) for e in (gold, value)):
        return False
    point = _point(gold.free_symbols | value.free_symbols)
    difference = _relative_difference(gold, value, point)
    return difference is not None and difference >= 1e-3


def _point(symbols: set[Any], sign: int = 1) -> dict[Any, Any]:
    return {symbol: sign * Rational(17 + 6 * rank, 11) for rank, symbol in enumerate(sorted(symbols, key=str))}


def _is_same_root(gold: Any, value: Any) -> bool:
    """Whether two expressions with roots are equal where both are real: `\\sqrt{1/n}` and `1/\\sqrt{n}`.

    For sympy they differ at negative n. `\\sqrt{x^2}` and `x` do so in real numbers too: checked at some.
    """
    if not (isinstance(gold, Expr) and isinstance(value, Expr)) or gold.free_symbols != value.free_symbols:
        return False
    roots = [power for power in gold.atoms(Pow) | value.atoms(Pow) if power.exp.is_Rational and power.exp.q == 2]
    if not roots:
        return False
    for sign in (1, -1):
        point = _point(gold.free_symbols, sign)
        if any(power.base.subs(point).is_negative for power in roots):
            continue
        x, y = (complex(expression.subs(point).evalf(20)) for expression in (gold, value))
        if abs(x - y) > 1e-12 * abs(x):
            return False
    positive = {symbol: Symbol(symbol.name, positive=True) for symbol in gold.free_symbols}
    return bool(simplify((gold - value).subs(positive)) == 0)
