"""`\\boxed{...}` in a text: the last one, or the last few that are one answer of several parts. One pass, linear."""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(r"\\\\|\\[{}]|\\(?:boxed|fbox)\s{0,9}\{|[{}]")
_BARE_BOX = re.compile(r"\\boxed(?:\s{1,9}(?P<word>[^\s{}\\$]{1,200})|(?P<digit>\d)(?!\d))")
_ESCAPED_END = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{([^{}\\\n]{1,200})\\\}")
_CONNECTOR = re.compile(
    r"\\q?quad|\\text\s?\{|\\?&|\b(?:and|or)\b|\$|\\[()\[\],;: ]|[.,;}\s]"
    r"|(?<![A-Za-z])[A-Za-z](?:_\{?\w\}?)?\s{0,3}[=:]"
)
_DENIED = re.compile(r"\b(?:not|never|cannot\s+be|n't)(?:\s+(?:be|equal(?:\s+to)?))?\s*[$\\(\[ ]*$", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"[$\s]{0,4}(?:\\text\{\s*)?(?:is|was)\s(?:wrong|incorrect|false|not\s(?:right|correct|the))", re.IGNORECASE
)
_MAX_BETWEEN = 80
_TAIL_CHARS = 2_000


class Box(NamedTuple):
    """A closed box: its place in the text, and its content."""

    start: int
    end: int
    content: str


class BoxedAnswer(NamedTuple):
    """The last boxed answer.

    Attributes:
        answer: `None` if there is none.
        end: where its last box ends.
        is_truncated: an unclosed box follows the last closed one.
    """

    answer: str | None
    end: int = 0
    is_truncated: bool = False


def last_boxed_answer(text: str) -> BoxedAnswer:
    """Return the last boxed answer; boxes with no more than `and`, `or`, `x =` between them are one answer.

    Interpretation: nothing is repaired in an unclosed last box, but for `\\boxed{185\\}`. `\\boxed{12` cut at the token
    limit may have been going to say 123, so such a completion has no answer, unless an earlier box is closed.
    """
    if "boxed" not in text and "fbox" not in text:
        return BoxedAnswer(None)
    boxes, unclosed = _closed_boxes(text)
    if unclosed is not None and (match := _ESCAPED_END.match(text, unclosed)):
        return BoxedAnswer(match.group(1).strip(), match.end())
    if not boxes:
        bare = None if unclosed is not None else next(reversed(list(_BARE_BOX.finditer(text[-_TAIL_CHARS:]))), None)
        if bare is None:
            return BoxedAnswer(None, is_truncated=unclosed is not None)
        return BoxedAnswer(bare["word"] or bare["digit"], max(0, len(text) - _TAIL_CHARS) + bare.end())
    parts = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if not is_connector(text[box.end : parts[0].start]):
            break
        parts.insert(0, box)
    if _DENIED.search(text[max(0, parts[0].start - 40) : parts[0].start]) or _DENIED_AFTER.match(text, parts[-1].end):
        return BoxedAnswer(None)
    contents = dict.fromkeys(_unwrap(box.content) for box in parts)
    return BoxedAnswer(", ".join(contents), parts[-1].end)


def is_connector(between: str) -> bool:
    """Whether the text between two formulas makes them parts of one answer: `and`, `or`, a comma, `x =`, space."""
    return len(between) <= _MAX_BETWEEN and not _CONNECTOR.sub("", between)


def _closed_boxes(text: str) -> tuple[list[Box], int | None]:
    """Return the outermost closed boxes that are not empty, and where an unclosed one after the last of them begins.

    One pass with a stack of open braces: 100,000 unclosed boxes cost no more than 100,000 characters.
    """
    open_braces: list[tuple[int, int, bool]] = []
    boxes: list[Box] = []
    for token in _TOKEN.finditer(text):
        word = token.group()
        if word == "}":
            if not open_braces:
                continue
            start, content_start, is_box = open_braces.pop()
            if is_box:
                while boxes and boxes[-1].start > start:
                    boxes.pop()
                boxes.append(Box(start, token.end(), text[content_start : token.start()].strip()))
        elif word == "{" or (word.endswith("{") and word != "\\{"):
            open_braces.append((token.start(), token.end(), word != "{"))
    boxes = [box for box in boxes if box.content]
    last_start = boxes[-1].start if boxes else -1
    return boxes, next((start for start, _, is_box in reversed(open_braces) if is_box and start > last_start), None)


def _unwrap(content: str) -> str:
    """`\\boxed{\\boxed{5}}` -> `5`; `6\\boxed{5}` -> `6{5}`, for it says more than 5."""
    inner, _ = _closed_boxes(content) if "boxed" in content else ([], None)
    if len(inner) == 1 and is_connector(content[: inner[0].start] + content[inner[0].end :]):
        return inner[0].content
    for box in reversed(inner):
        content = f"{content[: box.start]}{{{box.content}}}{content[box.end :]}"
    return content
