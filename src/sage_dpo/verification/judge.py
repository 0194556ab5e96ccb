"""One answer against one gold with math-verify. Runs in the worker only: it may hang, eat memory or kill the process.

Importing this module imports sympy and math-verify (about one second); the parent process never does.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Eq, UnevaluatedExpr, simplify, solve

from sage_dpo.records import VerdictKind
from sage_dpo.verification.answers import compare_answers
from sage_dpo.verification.normalization import prepare_pair
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
_ANYTHING = (_LATEX, ExprExtractionConfig())


def judge(gold: str, prediction: str) -> Judgement:
    """Compare an extracted answer with the gold.

    A gold that math-verify cannot read (prose, `t(0,4]`) proves nothing about an answer spelled otherwise: unparseable.
    """
    gold_text, prediction_text, has_conflict = prepare_pair(gold, prediction)
    if has_conflict:
        return Judgement(VerdictKind.WRONG, prediction)
    expected = _parse_answer(gold_text)
    if all(isinstance(value, str) for value in expected):
        return Judgement(VerdictKind.UNPARSEABLE, prediction, "math-verify cannot read the gold answer")
    given = _parse_answer(prediction_text)
    return Judgement(VerdictKind.CORRECT if _any_equal(expected, given) else VerdictKind.WRONG, prediction)


def judge_unmarked(gold: str, tail: str) -> Judgement:
    """Look for the last formula or number in the tail of a completion that marks no answer, then compare it."""
    found = [value for value in _parse(tail, _ANYTHING) if isinstance(value, str)]
    if not found:
        return Judgement(VerdictKind.UNPARSEABLE)
    is_correct = compare_answers(gold, found[0])
    if is_correct is None:
        return judge(gold, found[0])
    return Judgement(VerdictKind.CORRECT if is_correct else VerdictKind.WRONG, found[0])


@lru_cache(maxsize=1024)  # parsing takes 20 ms, and the samples of a problem share their gold
def _parse_answer(answer: str) -> tuple[Any, ...]:
    """Parse in a box: bare, `2\\sqrt{3}` would be read as 2. `2 3` is a list here; math-verify adds it up to 5."""
    return _parse("\\boxed{" + re.sub(r"(?<=\d) (?=\d+(?![\d/]))", ", ", answer) + "}")


def _parse(text: str, config: tuple[Any, ...] = _BOXED_ONLY) -> tuple[Any, ...]:
    """math-verify's parse: [expression, its text]. The deadline is the worker's own alarm, hence none here."""
    return tuple(parse(text, extraction_config=config, parsing_timeout=None, raise_on_error=True))


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
    """math-verify's verdict on two readings, without the wrong acceptances that we have seen."""
    if isinstance(gold, Eq) and isinstance(value, Eq):
        if gold.lhs == value.lhs and not gold.rhs.has(gold.lhs) and not value.rhs.has(gold.lhs):
            return _equal(gold.rhs, value.rhs)  # `y = f` against `y = g`: solving for x as well takes for ever
        return _verify(gold, value) and _is_same_equation(gold, value)
    difference = _relative_difference(gold, value)
    if difference is None:
        return _verify(gold, value)
    # Far apart: no need to simplify. Equal for math-verify, but only by underflow: 2e-24 pi is not 3e-24 pi.
    return difference < 1e-3 and _verify(gold, value) and difference <= 1e-4


def _verify(gold: Any, value: Any) -> bool:
    return bool(verify([gold], [value], allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True))


def _is_same_equation(gold: Eq, value: Eq) -> bool:
    """Reject equality of empty solution lists: math-verify takes x^2+4x+20=0 for x^2+18x+86=0 (no real roots)."""
    ratio = simplify((gold.lhs - gold.rhs) / (value.lhs - value.rhs))
    if ratio.is_number:
        return bool(ratio.is_finite) and not ratio.is_zero
    return bool(solve(gold, gold.free_symbols))


def _relative_difference(gold: Any, value: Any) -> float | None:
    """abs(x - y) / max(abs(x), abs(y)) of two constants; `None` unless both are finite, and written without `%`."""
    for expression in (gold, value):
        if not getattr(expression, "is_number", False) or expression.has(UnevaluatedExpr):
            return None
    try:
        x, y = complex(gold.evalf(15)), complex(value.evalf(15))
    except (TypeError, ValueError, OverflowError):
        return None
    scale = max(abs(x), abs(y))
    if not math.isfinite(scale) or (min(abs(x), abs(y)) == 0.0 and scale < 1e-100):  # an exact zero evaluates to noise
        return None
    return abs(x - y) / scale if scale > 0.0 else 0.0
