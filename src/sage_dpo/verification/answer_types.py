"""What kind of answer a gold is: decides how a completion's answer is read and compared."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

from sage_dpo.verification.normalization import canonical, normalize_answer, plain_text
from sage_dpo.verification.numeric import parse_number
from sage_dpo.verification.units import split_unit


class AnswerType(StrEnum):
    """A problem's `answer_type`.

    `number`: a plain number, with or without a unit; an unmarked answer must state a number, not an expression.
    `choice`: the letter of an option. `text`: words, compared as words. `expression`: anything else, for math-verify.
    """

    NUMBER = "number"
    CHOICE = "choice"
    TEXT = "text"
    EXPRESSION = "expression"


_CHOICE = re.compile(r"\(?[A-K]\)?(?:\s*(?:,|and)\s*\(?[A-K]\)?)*")
_WORDS = re.compile(r"[A-Za-z][A-Za-z']*(?:(?:[ ,.;]+|-)[A-Za-z][A-Za-z']*)*[.!]?")
_ROMAN = re.compile(r"[IVXLCDM]{2,}")
_PRODUCTS = ("abcdxyz", "kmn", "pqr", "rst", "uvw")
_NAMED = re.compile(r"[A-Za-z](?:_\{?\w+\}?)?=")


@lru_cache(maxsize=1024)
def answer_type(gold: str) -> AnswerType:
    """Return the type of a gold whose problem states none.

    Interpretation: two or three letters may be a product of variables (`ab`, `kx`, `mgh`) or a segment (`AB`); they are
    a word if they have a vowel (`no`, `was`), are Roman numerals or three capitals.
    """
    text = plain_text(gold)
    if _CHOICE.fullmatch(text):
        return AnswerType.CHOICE
    if _WORDS.fullmatch(text) and _is_text(text):
        return AnswerType.TEXT
    body, _ = split_unit(normalize_answer(gold))
    return AnswerType.NUMBER if parse_number(_NAMED.sub("", canonical(body), count=1)) else AnswerType.EXPRESSION


def is_number(answer: str) -> bool:
    """Whether a prediction is a number as stated, not a quotient that happens to be one (`90/6`)."""
    text = canonical(_NAMED.sub("", split_unit(normalize_answer(answer))[0].strip(), count=1))
    number = parse_number(text)
    if number is None:
        return False
    bottom = re.search(r"/(\d+)$|\{(\d+)\}$", text) if number.base is None and "^" not in text else None
    return bottom is None or number.value.denominator == int(bottom.group(1) or bottom.group(2))


def _is_text(text: str) -> bool:
    words = re.findall(r"[A-Za-z']+", text)
    longest = max(map(len, words))
    if longest >= 4 or (len(words) > 1 and longest == 3):
        return True
    if len(words) > 1 or longest == 1:
        return False
    if text.isupper():
        return longest == 3 or bool(_ROMAN.fullmatch(text))
    return bool(re.search("[aeiou]", text.lower())) and not _is_product(text)


def _is_product(word: str) -> bool:
    return list(word) == sorted(word) and any(set(word) <= set(run) for run in _PRODUCTS)
