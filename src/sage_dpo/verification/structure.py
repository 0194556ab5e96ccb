"""Answers of several parts: lists, tuples, named values, chains of equations, regions of the number line. Pure.

A rule compares the parts with a `Same`, which says whether two parts agree: `True`, `False`, or `None` if it cannot
tell. In the parent that is a comparison of plain numbers, in the worker math-verify; the rules are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

Same = Callable[[str, str], bool | None]

MAX_PARTS = 40
_OPENING, _CLOSING = "([{", ")]}"
_NAME = re.compile(
    r"\s*(?:\\(?:mathrm|text|mathbf)\{)?((?:[A-Za-z]|\\[a-z]{2,7})(?:_(?:\{\w+\}|\w))?)\}?\s*(\([A-Za-z]\)|\(\d\))?\s*"
)
_SEPARATORS = re.compile(
    r"\\text\s*\{\s*(?:,\s*)?(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[,;]|\\text\s*\{\s*[,;]\s*\}"
)
_VECTOR = re.compile(r"\\begin\{[pbv]?matrix\}(.+?)\\end\{[pbv]?matrix\}")
_ANGLED = re.compile(r"\\langle(.+?)\\rangle")
_INFINITY = {r"\infty": 1, r"+\infty": 1, r"-\infty": -1}
_SET = ("\\{", "\\}")


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """False as soon as one is; else None if one is."""
    result: bool | None = True
    for verdict in verdicts:
        if verdict is False:
            return False
        if verdict is None:
            result = None
    return result


def any_of(verdicts: Iterable[bool | None]) -> bool | None:
    """True as soon as one is; else None if one is."""
    result: bool | None = False
    for verdict in verdicts:
        if verdict:
            return True
        if verdict is None:
            result = None
    return result


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split where no bracket is open. One pass; brackets of intervals need not match (`(0,1]`)."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(text):
        match = separator.match(text, position) if depth == 0 else None
        if match and match.end() > position:
            parts.append(text[start:position])
            start = position = match.end()
            continue
        if text.startswith("\\text", position) or text.startswith("\\", position):
            position += 1  # an escaped bracket opens and closes as well
            if position >= len(text):
                break
        depth += (text[position] in _OPENING) - (text[position] in _CLOSING)
        depth = max(depth, 0)
        position += 1
    return [part for part in [*parts, text[start:]] if part.strip()]


def compare_chains(gold: str, prediction: str, same: Same) -> bool | None:
    """Decide about an answer with `=` if the gold has none: every side that is no mere name is the gold.

    `f(3)=9` is 9 and `2+3=5` is 5, but `6=5` and `x=6=5` are not. Sides with variables are left out beside one
    without (`A=\\\\pi r^2=25\\\\pi`).
    """
    if (
        _has_relation(gold)
        or "=" not in prediction
        or re.search(r"\\(?:le|ge|ne|in|equiv)(?![A-Za-z])|[<>]|\\pm", prediction)
    ):
        return None
    if len(split_top(prediction, _SEPARATORS)) > 1:
        return None
    sides = [side for side in prediction.split("=") if side.strip()]
    valued = [side for side in sides if not _NAME.fullmatch(side)]
    if len(valued) > 1 and not _has_variable(gold):
        valued = [side for side in valued if not _has_variable(side) or "|" in side] or valued
    elif len(valued) > 1:
        return None
    if not valued or valued == [prediction]:
        return None
    return all_of(same(gold, side.strip()) for side in valued)


def compare_lists(gold: str, prediction: str, same: Same) -> bool | None:
    """Decide about several values, named or not, where order counts only if the names or the brackets say so."""
    expected, given = _items(gold), _items(prediction)
    if expected is None or given is None or r"\pm" in gold + prediction:
        return None
    names, given_names = _names(expected), _names(given)
    if len(names) > 1 or len(given_names) > 1:
        return _compare_named(gold, prediction, expected, given, same)
    if len(expected) == 1 and len(given) == 1:
        if not names and not given_names:
            return None
        return None if names and given_names else same(expected[0][1], given[0][1])
    if names and given_names and set(names) != set(given_names):
        return None
    return _same_members([value for _, value in expected], [value for _, value in given], same)


def compare_tuples(gold: str, prediction: str, same: Same) -> bool | None:
    """Decide between tuples, vectors, intervals and sets: of one kind only, and in order but for sets."""
    expected, given = _bracketed(gold), _bracketed(prediction)
    if expected is None or given is None:
        return None
    (kind, parts), (given_kind, given_parts) = expected, given
    if kind == "set" and given_kind == "set":
        return _same_members(parts, given_parts, same)
    is_pair = len(parts) == 2 and "vector" not in (kind, given_kind)
    if kind != given_kind and (is_pair or "set" in (kind, given_kind)):
        return False
    if "cycle" in (kind, given_kind):
        turns = [parts[i:] + parts[:i] for i in range(len(parts))]
        return kind == given_kind and any(turn == given_parts for turn in turns)
    return len(parts) == len(given_parts) and all_of(map(same, parts, given_parts))


def same_parts(gold: str, prediction: str, same: Same) -> bool | None:
    """Compare two endpoints or elements: infinities are equal by sign, the rest by `same`."""
    keys = [text.replace(" ", "") for text in (gold, prediction)]
    if keys[0] == keys[1]:
        return True
    signs = [_INFINITY.get(key) for key in keys]
    return signs[0] == signs[1] if any(signs) else same(gold, prediction)


def _compare_named(
    gold: str, prediction: str, expected: list[tuple[str, str]], given: list[tuple[str, str]], same: Same
) -> bool | None:
    if any(text.strip().startswith(_SET[0]) for text in (gold, prediction)):
        return False
    if len(expected) != len(given):
        bracketed = [_bracketed(text) for text in (gold, prediction)]
        given = [("", part) for part in bracketed[1][1]] if bracketed[1] and bracketed[1][0] != "set" else given
        expected = [("", part) for part in bracketed[0][1]] if bracketed[0] and bracketed[0][0] != "set" else expected
        if len(expected) != len(given):
            return None
    names, given_names = _names(expected), _names(given)
    if len(names) == len(expected) and len(given_names) == len(given):
        if set(names) != set(given_names):
            return None
        values = dict(given)
        return all_of(same(value, values[name]) for name, value in expected)
    if names and given_names:
        return None
    if given_names:  # bare values in the gold: in no order, unless it is a tuple
        if _bracketed(gold) is None:
            return _same_members([value for _, value in expected], [value for _, value in given], same)
        given = sorted(given)
    return all_of(same(value, other) for (_, value), (_, other) in zip(expected, given, strict=True))


def _same_members(expected: Sequence[str], given: Sequence[str], same: Same) -> bool | None:
    """Whether each is among the others. Order does not count and repeats do not either."""
    if len(expected) * len(given) > MAX_PARTS**2:
        return None
    return all_of(
        [any_of(same(value, other) for other in given) for value in expected]
        + [any_of(same(value, other) for value in expected) for other in given]
    )


def _items(answer: str) -> list[tuple[str, str]] | None:
    """Read `3`, `1, -2`, `\\\\{1,2\\\\}`, `x=1 or x=-2`, `x=2, y=3` as (name or '', value)."""
    answer = answer.strip()
    if answer.startswith(_SET[0]) and answer.endswith(_SET[1]):
        answer = answer[2:-2]
    parts = split_top(answer, _SEPARATORS)
    if not parts or len(parts) > MAX_PARTS:
        return None
    items = []
    for part in parts:
        name, equals, value = part.partition("=")
        is_named = equals and "=" not in value and _NAME.fullmatch(name)
        if (equals and not is_named) or re.search(r"[<>]|\\(?:le|ge|ne|in|cup)(?![A-Za-z])", part):
            return None
        items.append((re.sub(r"[\s{}]", "", name), value.strip()) if is_named else ("", part.strip()))
    if items[0][0] and not any(name for name, _ in items[1:]):
        items = [(items[0][0], value) for _, value in items]  # `x=1,2`
    return items


def _names(items: list[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for name, _ in items if name))


def _bracketed(answer: str) -> tuple[str, list[str]] | None:
    """Read `(1,2)`, `]0,1]`, `\\\\{1,2\\\\}`, a column or row vector as (kind, parts); `None` for anything else."""
    answer = answer.strip()
    if match := _VECTOR.fullmatch(answer):
        rows = re.split(r"\\\\(?:\[\w*\])?|\\cr", match.group(1))
        rows = [row for row in rows if row.strip()]
        cells = [row.split("&") for row in rows]
        if len(cells) > 1 and any(len(row) > 1 for row in cells):
            return None
        return "vector", [cell.strip() for row in cells for cell in row]
    if match := _ANGLED.fullmatch(answer):
        return "vector", [part.strip() for part in split_top(match.group(1), re.compile(","))]
    if answer.startswith(_SET[0]) and answer.endswith(_SET[1]):
        parts = split_top(answer[2:-2], _SEPARATORS)
        return ("set", [part.strip() for part in parts]) if parts else None
    if len(answer) < 3 or answer[0] not in "([]" or answer[-1] not in ")][":
        return None
    inner = answer[1:-1]
    if re.fullmatch(r"\d+(?:(?:\\[ ,;]|\s)\s*\d+)+", inner) and answer[0] + answer[-1] == "()":
        return "cycle", re.findall(r"\d+", inner)
    parts = [part.strip() for part in split_top(inner, re.compile("[,;]"))]
    if len(parts) < 2 or _unbalanced(inner):
        return None
    sides = {"(": "(", "]": "(", "[": "["}[answer[0]] + {")": ")", "[": ")", "]": "]"}[answer[-1]]
    return sides, parts


def _unbalanced(inner: str) -> bool:
    """Whether the outer brackets of `(1,2),(3,4)` do not belong together."""
    depth = 0
    for character in inner:
        depth += (character in "([") - (character in ")]")
        if depth < 0:
            return True
    return False


def _has_relation(text: str) -> bool:
    return bool(re.search(r"[=<>]|\\(?:le|ge|ne|in|equiv|approx)(?![A-Za-z])", text))


def _has_variable(text: str) -> bool:
    return bool(re.search(r"(?<![\\A-Za-z])[A-Za-z]", re.sub(r"\\[A-Za-z]+|(?<![A-Za-z])[ei](?![A-Za-z])", " ", text)))
