"""One answer against one gold with math-verify. Runs in the worker only: it may hang, eat memory or kill the process.

Importing this module imports sympy and math-verify (about one second); the parent process never does.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Eq, simplify, solve

from sage_dpo.records import VerdictKind
from sage_dpo.verification.answers import compare_answers, prepare_pair

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


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict without its address: kind, extracted answer, and for `error` or an uncomparable gold the reason."""

    kind: VerdictKind
    extracted: str | None = None
    detail: str = ""


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


def _parse_answer(answer: str) -> list[Any]:
    """Parse in a box: bare, `2\\sqrt{3}` would be read as 2. `2 3` is a list here; math-verify adds it up to 5."""
    return _parse("\\boxed{" + re.sub(r"(?<=\d) (?=\d+(?![\d/]))", ", ", answer) + "}")


def _parse(text: str, config: tuple[Any, ...] = _BOXED_ONLY) -> list[Any]:
    """math-verify's parse: [expression, its text]. The deadline is the worker's own alarm, hence none here."""
    return list(parse(text, extraction_config=config, parsing_timeout=None, raise_on_error=True))


def _any_equal(expected: list[Any], given: list[Any]) -> bool:
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
    return _verify(gold, value) and _is_same_scale(gold, value)


def _verify(gold: Any, value: Any) -> bool:
    return bool(verify([gold], [value], allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True))


def _is_same_equation(gold: Eq, value: Eq) -> bool:
    """Reject equality of empty solution lists: math-verify takes x^2+4x+20=0 for x^2+18x+86=0 (no real roots)."""
    ratio = simplify((gold.lhs - gold.rhs) / (value.lhs - value.rhs))
    if ratio.is_number:
        return bool(ratio.is_finite) and not ratio.is_zero
    return bool(solve(gold, gold.free_symbols))


def _is_same_scale(gold: Any, value: Any) -> bool:
    """Reject equality by underflow: math-verify takes differences below 1e-15 for zero, so 2e-24 pi for 3e-24 pi."""
    if not (getattr(gold, "is_number", False) and getattr(value, "is_number", False)):
        return True
    x, y = abs(complex(gold.evalf(15))), abs(complex(value.evalf(15)))
    return max(x, y) >= 1e-6 or abs(x - y) <= 1e-6 * max(x, y)
