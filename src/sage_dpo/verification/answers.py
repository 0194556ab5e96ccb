"""Gold and predicted answers, prepared alike, and compared as far as text, numbers and polynomials decide. Pure.

    compare_answers(gold, prediction) -> True | False | None     None: ask math-verify about `prepare_pair(...)`

The quirks handled are those of the benchmarks' own gold answers: `4.5e33`, `1,450`, `025`, `\\$32,\\!348`, `90^\\circ`,
`864 \\mbox{ inches}^2`, `69,84`, `2 or -2`, `\\text{(C)}`, `x \\in [-2,7]`, `05\\!:\\!00`, `-1./3`, `np.arcsin(..)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from sage_dpo.verification.algebra import compare_expressions
from sage_dpo.verification.numeric import PlainNumber, numbers_equal, parse_number
from sage_dpo.verification.units import split_unit, units_conflict

_CHARACTERS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2044": "/", "\u00f7": "/", "\u2019": "'", "\u00b2": "^{2}", "\u00b3": "^{3}",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u00b0": r"^{\circ}", "\u221a": r"\sqrt ", "\u03c0": r"\pi ",
        "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u00b1": r"\pm ", "\u221e": r"\infty ", "\u2205": r"\emptyset ",
        "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u2208": r"\in ", "\u222a": r"\cup ",
    }
)  # fmt: skip
_REWRITES: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))"), ""),  # a comma that separates thousands, not list elements
    (re.compile(r"\\!\s*|\\(?:displaystyle|bigl?|bigr|Bigl?|Bigr|limits)(?![A-Za-z])"), ""),
    (re.compile(r"\\m?(?:left|right)(?=[\[\]()|.\\])"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leqslant|leq)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\text\s*\{\s*infinity\s*\}|^infinity$"), r"\\infty "),
    (re.compile(r"\\q?quad(?![A-Za-z])"), " "),
    # degrees go, except at the end, where they are a unit (`split_unit`)
    (re.compile(r"(?:\s*\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![A-Za-z]))|\\degree)(?!\s*\.?$)"), ""),
    (re.compile(r"(?<!\\)%"), r"\\%"),
    (re.compile(r"^\\text\s*\{([^{}]*\d[^{}]*)\}$"), r"\1"),
    (re.compile(r"\bnp\.(?=[a-z])"), ""),
    (re.compile(r"(?<![\\A-Za-z])(?=(?:arc)?(?:sin|cos|tan)\b)"), r"\\"),
    (re.compile(r"(?<=\d)\.(?=\s*(?:/|$|[}),;]))"), ""),
    (re.compile(r"(?<![\d\w])\.(?=\d)"), "0."),
    (re.compile(r"(\d)\s*solution:?$"), r"\1"),
    (re.compile(r"C_\{?(\d+)\}?\^\{?(\d+)\}?"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\(frac|binom)\s*(\d)\s*(\d)"), r"\\\1{\2}{\3}"),
    # latex2sympy reads any number followed by a number as a mixed one: `2\binom42` as 2 + 6, `3(4)` as 3 + 4
    (re.compile(r"(?<=[\d}!)])\s*(?=\\binom)|(?<=\))\s*(?=\\frac|\d)"), r" \\cdot "),
    (re.compile(r"(?<![\w{^}])(\d+)\s*\((?=\s*[-\d\\])"), r"\1 \\cdot ("),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\s+"), " "),
]  # fmt: skip
_E_NOTATION = re.compile(r"(?<![\w.}])(\d+(?:\.\d*)?|\.\d+)[eE]([-+]?)0*(\d+)(?![\w.{^])")
_SET_BUILDER = re.compile(r"\\\{\s*([A-Za-z])\s*(?:\||\\mid|:)\s*([^|:]*(?:<|>|\\le|\\ge)[^|:]*)\\\}")
_SEQUENCE = re.compile(r"([(\[])([^()\[\]]*)([)\]])")
_INFINITIES = {r"\infty": r"\infty", r"+\infty": r"\infty", r"-\infty": r"-\infty"}
_MAX_LIST_CHARS = 2_000
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname|rm)\s*\{([^{}]*)\}")
_MEMBER = re.compile(r"[A-Za-z]\s*\\in(?![A-Za-z])\s*(?=[\[({\\])")
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


@lru_cache(maxsize=1024)  # the samples of a problem share their gold, and most of them a few answers
def normalize_answer(answer: str) -> str:
    """Return `answer` as cleaner LaTeX of the same meaning; this is what math-verify gets to see (in a box)."""
    text = answer.translate(_CHARACTERS).strip()
    for opening, closing in _DELIMITERS:
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            text = inner.strip() if opening not in inner else text
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _E_NOTATION.sub(r"\1 \\times 10^{\2\3}", text.strip())
    text = _SET_BUILDER.sub(r"\2", text) if len(text) < 300 and _SET_BUILDER.fullmatch(text) else text
    text = _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text
    text = re.sub(r"^(?:\\approx|\\simeq|=)\s*", "", text)
    return text.rstrip(" .") if not text.endswith((r"\.", r"\ .")) else text


def prepare_pair(gold: str, prediction: str) -> tuple[str, str, bool]:
    """Normalise both, drop their units where safe; the flag says that the units are known and differ.

    A unit that only one side marks (`2\\text{ s}` against `2s`) is dropped from the other side too.
    """
    (gold, gold_unit), (prediction, unit) = split_unit(normalize_answer(gold)), split_unit(normalize_answer(prediction))
    if gold_unit and not unit:
        prediction = _drop_unmarked_unit(prediction, gold_unit)
    elif unit and not gold_unit:
        gold = _drop_unmarked_unit(gold, unit)
    return gold, prediction, units_conflict(gold_unit, unit)


@lru_cache(maxsize=1024)
def compare_answers(gold: str, prediction: str) -> bool | None:
    """Whether `prediction` is the answer `gold`; `None` if text, numbers and polynomials cannot tell.

    Equal canonical text is correct. Two texts, two option letters, two clock times, two lists of plain numbers, or two
    tuples or intervals of them in the same brackets, that differ are wrong, as are known units that differ. Small
    polynomials, radicals and multiples of pi are compared by their normal forms. Everything else is for the worker.
    """
    if gold.strip() == prediction.strip():
        return bool(gold.strip())
    texts = _plain_text(gold), _plain_text(prediction)
    for rule in (_compare_clocks, _compare_letters, _compare_words):
        verdict = rule(*texts)
        if verdict is not None:
            return verdict
    gold, prediction, conflict = prepare_pair(gold, prediction)
    if conflict:
        return False
    if canonical(gold) and canonical(gold) == canonical(prediction):
        return True
    for rule in (_compare_numbers, _compare_sequences, compare_expressions):
        verdict = rule(gold, prediction)
        if verdict is not None:
            return verdict
    return None


@lru_cache(maxsize=1024)
def canonical(answer: str) -> str:
    """Return a spelling-independent key of a normalised answer: spaces, text commands, optional braces removed.

    A space between two digits, or between a command and a letter, is kept: `1 4/5` is not `14/5`.
    """
    text = _TEXT.sub(r"\1", answer)
    text = re.sub(r"\\[,;: ]|~|\\\$|\$", " ", text)
    text = re.sub(r"(?<=\d)\s+(?=\d)|(\\[A-Za-z]+)\s+(?=[A-Za-z])", lambda m: (m.group(1) or "") + "\0", text)
    text = re.sub(r"\s+", "", text).replace("\0", " ")
    text = re.sub(r"\\frac(\w)(\w)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\w)\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\{[^{}]*\})(\w)", r"\1{\2}", text)
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    return text


@lru_cache(maxsize=1024)
def _plain_text(answer: str) -> str:
    """Text commands unwrapped, spaces single: for letters, clocks and words."""
    text = normalize_answer(answer)
    text = re.sub(r"\\[,;: ]|~", " ", _TEXT.sub(r" \1 ", text))
    return re.sub(r"\s+", " ", text.replace("**", "")).strip(" .$")


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


def _drop_unmarked_unit(answer: str, unit: str) -> str:
    name, _, power = unit.partition("^")
    exponent = rf"\^\{{?{power}\}}?" if power else ""
    match = re.fullmatch(rf"(.*(?:[\d)}}]|\\pi))\s*{re.escape(name)}{exponent}", answer)
    return match.group(1) if match else answer
