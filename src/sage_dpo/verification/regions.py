"""Regions of the number line: intervals and unions of them against inequalities. Pure.

(-\\infty,-1) \\cup (3,\\infty)     x < -1 or x > 3     |x-1| > 2     x \\ne 3     \\mathbb{R} \\setminus \\{3\\}
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sage_dpo.verification.normalization import canonical
from sage_dpo.verification.numeric import parse_number
from sage_dpo.verification.structure import Same, all_of, any_of, same_parts, split_top

_MAX_CHARS = 300
_UNION = re.compile(
    r"\\cup|\\(?:lor|vee)(?![A-Za-z])|\\text\s*\{\s*or\s*\}|(?<![A-Za-z])or(?![A-Za-z])|(?<=[\])])\s*U\s*(?=[(\[])"
)
_AND = re.compile(r"\\(?:land|wedge|cap)(?![A-Za-z])|\\text\s*\{\s*and\s*\}|(?<![A-Za-z])and(?![A-Za-z])|[,&]")
_LIST = re.compile(r"[,;]")
_RELATION = re.compile(r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z]))")
_VARIABLE = re.compile(r"\s*([A-Za-z](?:_\{?\w\}?)?|[fgh]\s*\([a-z]\))\s*")
_ABSOLUTE = re.compile(
    r"\s*(?:\||\\lvert|\\vert)\s*([A-Za-z])\s*(?:([-+])\s*([\d./]+|\\frac\{\d+\}\{\d+\}))?\s*(?:\||\\rvert|\\vert)\s*"
)
_REALS = re.compile(
    r"(?:x\s*\\in\s*)?(?:\\mathbb\s*\{?R\}?|\\R|\\text\{\s*all real numbers\s*\}|all real numbers|all reals)",
    re.IGNORECASE,
)
_WITHOUT = re.compile(r"(?:\\setminus|\\backslash|-|\\)\s*\\\{(.+)\\\}")
_INFINITE, _NEGATIVE = r"\infty", r"-\infty"
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


class Stretch(NamedTuple):
    """From `low` to `high`, without an end where it is open."""

    low: str
    high: str
    is_low_open: bool
    is_high_open: bool


def compare_regions(gold: str, prediction: str, same: Same) -> bool | None:
    """Decide if both are regions and at least one is written with relations, or both are unions."""
    texts = [gold, prediction]
    if max(map(len, texts)) > _MAX_CHARS or not all(
        re.search(r"[<>(\[|\]]|\\\{|all real|\\(?:le|ge|ne|cup|mathbb|R)\b", t) for t in texts
    ):
        return None
    regions = [_region(text) for text in texts]
    if regions[0] is None or regions[1] is None:
        return None
    names = [
        match.group() for text in texts if (match := re.search(r"(?<![\\A-Za-z])[a-zA-Z](?![A-Za-z])", _bare(text)))
    ]
    if len(names) == 2 and names[0] != names[1] and all(_RELATION.search(text) for text in texts):
        return False
    if len(regions[0]) != len(regions[1]):
        return False
    return all_of(any_of(_same_stretch(a, b, same) for b in regions[1]) for a in regions[0])


def alternatives(gold: str) -> list[str]:
    """`x<-7:(-\\\\infty,-7)` says the same twice: return both."""
    match = re.fullmatch(r"(.*(?:<|>|\\le|\\ge).*?):\s*([(\[].*)", gold) if len(gold) < _MAX_CHARS else None
    return [match.group(1), match.group(2)] if match else [gold]


def _bare(text: str) -> str:
    return re.sub(r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+|\b(?:or|and|U|e)\b", " ", text)


def _same_stretch(a: Stretch, b: Stretch, same: Same) -> bool | None:
    if (a.is_low_open, a.is_high_open) != (b.is_low_open, b.is_high_open):
        return False
    return all_of(same_parts(x, y, same) for x, y in ((a.low, b.low), (a.high, b.high)))


def _region(text: str) -> list[Stretch] | None:
    text = text.strip()
    if match := _REALS.match(text):
        rest = text[match.end() :].strip()
        if not rest:
            return [_all()]
        without = _WITHOUT.fullmatch(rest)
        return _punctured([without.group(1)]) if without else None
    parts = split_top(text, _UNION)
    if len(parts) == 1 and _RELATION.search(text):
        commas = split_top(text, _AND)
        if len(commas) == 2 and r"\ne" not in text:
            return _intersection(_part(commas[0]), _part(commas[1]))
    intervals: list[Stretch] = []
    for part in parts:
        found = _part(part)
        if found is None:
            return None
        intervals += found
    return intervals or None


def _part(text: str) -> list[Stretch] | None:
    text = text.strip().removeprefix(r"\{").strip() if _RELATION.search(text) else text.strip()
    if not _RELATION.search(text):
        return _interval(text)
    pieces = [piece.strip() for piece in _RELATION.split(text)]
    if len(pieces) == 3:
        return _half_line(*pieces)
    if len(pieces) != 5 or not _VARIABLE.fullmatch(pieces[2]):
        return None
    low, first, _, second, high = pieces
    if first in (">", r"\ge"):
        low, first, second, high = high, _FLIPPED.get(second, ""), _FLIPPED[first], low
    if first not in ("<", r"\le") or second not in ("<", r"\le"):
        return None
    return [Stretch(low, high, first == "<", second == "<")]


def _half_line(left: str, relation: str, right: str) -> list[Stretch] | None:
    if _VARIABLE.fullmatch(right) and _VARIABLE.fullmatch(left):
        return None
    if _VARIABLE.fullmatch(right):
        left, right, relation = right, left, _FLIPPED.get(relation, relation)
    if relation == r"\ne":
        return _punctured(split_top(right, _LIST)) if _VARIABLE.fullmatch(left) and r"\pm" not in right else None
    is_open, is_below = relation in "<>", relation in ("<", r"\le")
    if match := _ABSOLUTE.fullmatch(left):
        _, sign, shift = match.groups()
        low, high = (f"-{right}", right) if shift is None else _shifted(right, sign, shift)
        if is_below:
            return [Stretch(low, high, is_open, is_open)]
        return [Stretch(_NEGATIVE, low, True, is_open), Stretch(high, _INFINITE, is_open, True)]
    if not _VARIABLE.fullmatch(left):
        return None
    if is_below:
        return [Stretch(_NEGATIVE, right, True, is_open)]
    return [Stretch(right, _INFINITE, is_open, True)]


def _shifted(radius: str, sign: str, shift: str) -> tuple[str, str]:
    center = f"-{shift}" if sign == "+" else shift
    return f"{center}-({radius})", f"{center}+{radius}"


def _interval(text: str) -> list[Stretch] | None:
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return [Stretch(point.strip(), point.strip(), False, False) for point in split_top(text[2:-2], _LIST)]
    if len(text) < 5 or text[0] not in "([]" or text[-1] not in ")][":
        return None
    ends = split_top(text[1:-1], _LIST)
    if len(ends) != 2:
        return None
    return [Stretch(ends[0].strip(), ends[1].strip(), text[0] in "(]", text[-1] in ")[")]


def _intersection(first: list[Stretch] | None, second: list[Stretch] | None) -> list[Stretch] | None:
    """`x > 1 and x < 3`: two half-lines that meet."""
    if first is None or second is None or len(first) != 1 or len(second) != 1:
        return None
    a, b = first[0], second[0]
    if a.low == _NEGATIVE and b.high == _INFINITE:
        a, b = b, a
    if a.high != _INFINITE or b.low != _NEGATIVE:
        return None
    low, high = parse_number(canonical(a.low)), parse_number(canonical(b.high))
    if low and high and low.value > high.value:  # `x < -1, x > 3` is meant as a union
        return [b, a]
    return [Stretch(a.low, b.high, a.is_low_open, b.is_high_open)]


def _punctured(points: list[str]) -> list[Stretch] | None:
    points = [point for text in points for point in split_top(text, _LIST)]
    if len(points) != 1:
        return None
    return [Stretch(_NEGATIVE, points[0].strip(), True, True), Stretch(points[0].strip(), _INFINITE, True, True)]


def _all() -> Stretch:
    return Stretch(_NEGATIVE, _INFINITE, True, True)
