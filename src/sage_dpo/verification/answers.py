"""Gold and predicted answers compared: the rules of text, numbers and structure, in order. Pure.

    compare_answers(gold, prediction) -> True | False | None     None: ask math-verify

In the parent `same` knows plain numbers only, and what it cannot tell goes to a worker. There the same rules run again
with math-verify as `same` (`judge`), so that a list, a tuple or a union is taken apart before its parts are compared.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sage_dpo.verification.answer_types import AnswerType, answer_type
from sage_dpo.verification.normalization import canonical, plain_text, prepare_pair
from sage_dpo.verification.numeric import numbers_equal, parse_number
from sage_dpo.verification.regions import alternatives, compare_regions
from sage_dpo.verification.structure import Same, any_of, compare_chains, compare_lists, compare_tuples
from sage_dpo.verification.words import (
    DENIAL,
    compare_choices,
    compare_clocks,
    compare_codes,
    compare_texts,
    compare_yes_no,
)

_MAX_STRUCTURE_CHARS = 2_000
_MAX_DEPTH = 4
_BEFORE_NUMBER = re.compile(
    r"^(?:\\text\s*\{\s*)?(?:(?:the|final|answer|is|so|about|approximately|approx|around|exactly|equals?|total|of|only|just|x)\b"
    r"[\s:.]{0,9})+\}?\s*(?=[-+\d\\$.])",
    re.IGNORECASE,
)
_PROSE = re.compile(r"\\text\s*\{[^{}]*[A-Za-z]{2}[^{}]*\}|(?<![\\A-Za-z{])[A-Za-z]{4,}(?![A-Za-z])")
_LOOSE_NUMBERS = re.compile(r"[-+]?[\d.]+(?:\s+[-+]?[\d.]+)+")
_RATIO = re.compile(r"([\d.]+)\s*(?:\\text\s*\{\s*to\s*\}|\bto\b|:)\s*([\d.]+)")
_CONGRUENCE = re.compile(
    r"(?:[A-Za-z]\s*\\equiv\s*)?(-?\d{1,40})\s*(?:\\pmod\s*\{?\s*(\d{1,40})\s*\}?|\(?\s*\\?(?:bmod|mod)\s*(\d{1,40})\s*\)?)"
)


def compare_answers(
    gold: str, prediction: str, kind: AnswerType | None = None, same: Same | None = None
) -> bool | None:
    """Whether `prediction` is the answer `gold`; `None` if text, plain numbers and `same` cannot tell.

    Args:
        gold, prediction: as written.
        kind: the problem's answer type; by default what the gold looks like.
        same: compares two expressions that are neither plain numbers nor made of parts.
    """
    if gold.strip() == prediction.strip():
        return bool(gold.strip())
    kind = kind or answer_type(gold)
    if same is None:
        return _compare_quickly(gold, prediction, kind)
    return _compare(gold, prediction, kind, same)


@lru_cache(maxsize=1024)
def _compare_quickly(gold: str, prediction: str, kind: AnswerType) -> bool | None:
    return _compare(gold, prediction, kind, lambda gold, prediction: None)


def _compare(gold: str, prediction: str, kind: AnswerType, same: Same) -> bool | None:
    texts = plain_text(gold), plain_text(prediction)
    if kind is AnswerType.CHOICE:
        return compare_choices(*texts)
    if kind is AnswerType.TEXT:
        verdict = compare_yes_no(*texts)
        return compare_texts(*texts) if verdict is None else verdict
    if DENIAL.search(texts[1]) and not DENIAL.search(texts[0]):
        return False
    for rule in (compare_clocks, compare_codes, _compare_ratios, _compare_congruences):
        verdict = rule(*texts)
        if verdict is not None:
            return verdict
    gold, prediction, conflict = prepare_pair(gold, prediction)
    if conflict:
        return False
    if canonical(gold) and canonical(gold) == canonical(prediction):
        return True
    if kind is AnswerType.NUMBER:
        prediction = _BEFORE_NUMBER.sub("", prediction)
        if _LOOSE_NUMBERS.fullmatch(prediction) and parse_number(canonical(prediction)) is None:
            return False
        if _PROSE.search(re.sub(r"\\text\s*\{\s*(?:and|or)\s*\}", ",", prediction)):
            return False
    return any_of(_compare_parts(gold_text, prediction, same, 0) for gold_text in alternatives(gold))


def _compare_parts(gold: str, prediction: str, same: Same, depth: int) -> bool | None:
    """Plain numbers, then structure, then `same`. Parts are compared in the same way, a few levels down."""
    expected, given = parse_number(canonical(gold)), parse_number(canonical(prediction))
    if expected and given:
        return numbers_equal(expected, given)
    if canonical(gold) and canonical(gold) == canonical(prediction):
        return True
    if depth < _MAX_DEPTH and len(gold) <= _MAX_STRUCTURE_CHARS and len(prediction) <= _MAX_STRUCTURE_CHARS:

        def parts(gold: str, prediction: str) -> bool | None:
            return _compare_parts(gold, prediction, same, depth + 1)

        for rule in (compare_chains, compare_regions, compare_lists, compare_tuples):
            verdict = rule(gold, prediction, parts)
            if verdict is not None:
                return verdict
    if expected and re.search(r"[<>]|^\[|\\(?:le|ge|ne|cup|in|equiv)(?![A-Za-z])", prediction):
        return False
    return same(gold, prediction)


def _compare_ratios(gold: str, prediction: str) -> bool | None:
    """`2:3` is `2 to 3` and `4:6`, in this order. `5:1` is not 5; `\\frac{2}{3}` is left to math-verify."""
    expected, given = _RATIO.fullmatch(gold), _RATIO.fullmatch(prediction)
    if expected is None or given is None:
        number = parse_number(canonical(gold)) if given else None
        return False if number is not None and number.value.denominator == 1 else None
    a, b, c, d = (parse_number(part) for match in (expected, given) for part in match.groups())
    if not (a and b and c and d):
        return None
    return a.value * d.value == b.value * c.value and bool(b.value) == bool(d.value)


def _compare_congruences(gold: str, prediction: str) -> bool | None:
    """`10 \\pmod 7` is `3 \\pmod 7`; a bare number must be the gold's own."""
    expected, given = _CONGRUENCE.fullmatch(gold), _CONGRUENCE.fullmatch(prediction)
    if expected is None:
        return None
    residue, modulus = int(expected[1]), int(expected[2] or expected[3])
    if given is None:
        number = parse_number(canonical(prediction))
        return None if number is None else number.value == residue
    return modulus == int(given[2] or given[3]) and (modulus == 0 or (residue - int(given[1])) % modulus == 0)
