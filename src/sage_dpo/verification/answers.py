"""Gold and predicted answers compared as far as text and plain numbers decide, without math-verify. Pure.

    compare_answers(gold, prediction) -> True | False | None     None: ask math-verify

One rule for each kind of answer: times of day, option letters `\\text{(C)}`, words, numbers and lists of them `69,84`,
`2 or -2`, `x=1, x=-2`, tuples and intervals.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sage_dpo.verification.normalization import canonical, plain_text, prepare_pair
from sage_dpo.verification.numeric import PlainNumber, numbers_equal, parse_number

_SEQUENCE = re.compile(r"([(\[])([^()\[\]]*)([)\]])")
_INFINITIES = {r"\infty": r"\infty", r"+\infty": r"\infty", r"-\infty": r"-\infty"}
_MAX_LIST_CHARS = 2_000
_ASSIGNED = re.compile(r"([A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z]\))?)=(.+)")
_LETTER = re.compile(r"\(([A-K])\)(?!\s*(?:,|and|or|&|\())|([A-K])[.):](?=\s|$|\\|\$)|([A-K])$")
_GOLD_LETTER = re.compile(r"\(?([A-K])\)?")
_CLOCK = re.compile(r"0?(\d{1,2}):(\d{2})\s*([ap])?\.?(?:m\.?)?", re.IGNORECASE)
_YES_NO = re.compile(r"(yes|no|true|false)(?=$|\s*[,.;:!])", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z][A-Za-z']*(?:(?:[ ,.]+|-)[A-Za-z][A-Za-z']*)*")
_SPLIT = re.compile(
    r"\s*(?:[,;]\s*)?\\text\s*\{\s*(?:and|or)\s*\}\s*"
    r"|\s*(?:[,;]\s*)?(?<![A-Za-z])(?:and|or)(?![A-Za-z])\s*|\s*[,;]\s*"
)


@lru_cache(maxsize=1024)
def compare_answers(gold: str, prediction: str) -> bool | None:
    """Whether `prediction` is the answer `gold`; `None` if text and plain numbers cannot tell.

    Equal canonical text is correct. Two texts, two option letters, two clock times, two lists of plain numbers, or two
    tuples or intervals of them in the same brackets, that differ are wrong, as are known units that differ. Everything
    else is for the worker.
    """
    if gold.strip() == prediction.strip():
        return bool(gold.strip())
    texts = plain_text(gold), plain_text(prediction)
    for rule in (_compare_clocks, _compare_letters, _compare_words):
        verdict = rule(*texts)
        if verdict is not None:
            return verdict
    gold, prediction, conflict = prepare_pair(gold, prediction)
    if conflict:
        return False
    if canonical(gold) and canonical(gold) == canonical(prediction):
        return True
    for rule in (_compare_numbers, _compare_sequences):
        verdict = rule(gold, prediction)
        if verdict is not None:
            return verdict
    return None


def _compare_clocks(gold: str, prediction: str) -> bool | None:
    """Decide about times of day. A gold such as 3:05 may be a ratio; 05:00 and 3:05 pm may not."""
    expected, given = _CLOCK.fullmatch(gold.replace(" ", "")), _CLOCK.fullmatch(prediction.replace(" ", ""))
    if expected is None:
        return None
    if given is None:
        return False if gold.startswith("0") or expected.group(2) == "00" or expected.group(3) else None
    halves = {(match.group(3) or "").lower() for match in (expected, given)} - {""}
    return expected.group(1, 2) == given.group(1, 2) and len(halves) <= 1


def _compare_letters(gold: str, prediction: str) -> bool | None:
    expected = _GOLD_LETTER.fullmatch(gold)
    given = _LETTER.match(prediction)
    if expected is None or given is None:
        return None
    return expected.group(1) == next(letter for letter in given.groups() if letter)


def _compare_words(gold: str, prediction: str) -> bool | None:
    """Decide between phrases. A gold of one short word (`abc`) may be a product of variables: not decided here."""
    if expected := _YES_NO.fullmatch(gold):
        given = _YES_NO.match(prediction)
        return None if given is None else expected.group(1).lower() == given.group(1).lower()
    if not (_WORDS.fullmatch(gold) and _WORDS.fullmatch(prediction)):
        return None
    words, given_words = (re.findall(r"[a-z']+", text.lower()) for text in (gold, prediction))
    longest = max(map(len, words))
    if longest >= 3 and words == given_words:
        return True
    return False if longest >= 5 or (len(words) > 1 and longest >= 4) else None


def _compare_numbers(gold: str, prediction: str) -> bool | None:
    golds, predictions = _numbers(gold), _numbers(prediction)
    if golds is None or predictions is None:
        return None
    (gold_name, expected), (name, given) = golds, predictions
    if gold_name and name and gold_name != name:
        return None
    return _same_numbers(expected, given) and _same_numbers(given, expected)


def _compare_sequences(gold: str, prediction: str) -> bool | None:
    """Decide between tuples or intervals of plain numbers in the same brackets; order counts."""
    golds, predictions = _sequence(gold), _sequence(prediction)
    if golds is None or predictions is None or golds[0] != predictions[0]:
        return None
    expected, given = golds[1], predictions[1]
    return len(expected) == len(given) and all(map(_same_element, expected, given))


def _same_element(gold: PlainNumber | str, prediction: PlainNumber | str) -> bool:
    if isinstance(gold, str) or isinstance(prediction, str):
        return gold == prediction
    return numbers_equal(gold, prediction)


def _sequence(answer: str) -> tuple[str, list[PlainNumber | str]] | None:
    """Read `(1,2)`, `[0,\\infty)` as (brackets, elements); `None` unless all are plain numbers or infinite."""
    match = _SEQUENCE.fullmatch(answer.strip()) if len(answer) <= _MAX_LIST_CHARS else None
    if match is None:
        return None
    elements: list[PlainNumber | str] = []
    for part in match.group(2).split(","):
        text = canonical(part)
        element = _INFINITIES.get(text) or parse_number(text)
        if element is None:
            return None
        elements.append(element)
    return (match.group(1) + match.group(3), elements) if len(elements) > 1 else None


def _same_numbers(expected: list[PlainNumber], given: list[PlainNumber]) -> bool:
    """Whether each of `expected` is among `given`. Order does not count and repeats do not either."""
    return all(any(numbers_equal(number, other) for other in given) for number in expected)


def _numbers(answer: str) -> tuple[str, list[PlainNumber]] | None:
    """Read `5`, `x=5`, `1,-2`, `\\{1,2\\}`, `x=1 or x=-2` as (common variable or '', numbers)."""
    if len(answer) > _MAX_LIST_CHARS:
        return None
    number = parse_number(canonical(answer))
    if number is not None:
        return "", [number]
    answer = answer.strip()
    if answer.startswith(r"\{") and answer.endswith(r"\}"):
        answer = answer[2:-2]
    parts = [canonical(part) for part in _SPLIT.split(answer) if part.strip()]
    assigned = [_ASSIGNED.fullmatch(part) for part in parts]
    names = {match.group(1) for match in assigned if match}
    if len(names) == 1 and assigned[0]:
        parts = [match.group(2) if match else part for match, part in zip(assigned, parts, strict=True)]
    numbers = [number for part in parts if (number := parse_number(part)) is not None]
    if not numbers or len(numbers) < len(parts):
        return None
    return next(iter(names), ""), numbers
