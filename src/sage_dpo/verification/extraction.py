"""Read the final answer out of a completion: text in, text out, linear in the length of the text.

Order: last `\\boxed{...}` (boxes that follow each other are one answer of several parts), else the last GSM8K line
`#### answer`, else the last "the answer is ...". A completion without any of these is unmarked: the worker may then
look for the last formula or number in its tail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ANSWER_CHARS = 4_000
"""A longer "answer" is a derivation or a loop, not an answer; the longest gold of the eight suites has 700."""

_TAIL_CHARS = 2_000
_TOKEN = re.compile(r"\\\\|\\[{}]|\\(?:boxed|fbox)\s*\{|[{}]")
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}\\$]+)")
_BETWEEN_PARTS = re.compile(
    r"(?:\s|\$|\\[()\[\],;]|[.,;&])*(?:\\text\s*\{)?\s*(?:and|or)?\s*\}?(?:\s|\$|\\[()\[\],;])*(?:[A-Za-z]\s*=\s*)?"
)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_PHRASE = re.compile(
    r"(?:\b(?:the|final|correct|my)\s+(?:final\s+|correct\s+)?answer\b[^.\n:=]{0,40}?|^\W{0,6}(?:final\s+)?answer\W{0,4}?)"
    r"(?:\bis\b|\bare\b|:|=)[:*\s]*",
    re.IGNORECASE | re.MULTILINE,
)
_INLINE_MATH = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_RESULT = re.compile(
    r"<<[^<>]*=\s*([^<>=\s]+)\s*>>"
    r"|=\s*(-?\$?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)%?)(?![A-Za-z_(^{%\\]|[.,]?\d|\s*[-+*/^=<>\\])"
)
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_MAX_PHRASE_CHARS = 200


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was read out of a completion.

    Attributes:
        answer: the answer as written, ends trimmed; `None` if the completion marks none.
        is_truncated: the completion ends inside an unclosed box, so nothing in its tail can be trusted.
        is_too_long: an answer is marked, but it is longer than `MAX_ANSWER_CHARS`.
    """

    answer: str | None
    is_truncated: bool = False
    is_too_long: bool = False


def extract_answer(completion: str) -> Extraction:
    """Return the marked final answer of `completion`.

    Interpretation: nothing is repaired in an unclosed last box. `\\boxed{12` cut at the token limit may have been
    going to say 123, so such a completion has no answer, unless an earlier box is closed.
    """
    answer, is_truncated = _last_box(completion)
    if answer is None and not is_truncated:
        answer = _last_hash_line(completion) or _last_phrase(completion[-_TAIL_CHARS:])
    if answer is not None and len(answer) > MAX_ANSWER_CHARS:
        return Extraction(None, is_too_long=True)
    return Extraction(answer, is_truncated=answer is None and is_truncated)


def unmarked_tail(completion: str, max_chars: int = 1_000) -> str:
    """Return the end of a completion in which an unmarked answer is looked for, cut at a white space if need be."""
    if len(completion) <= max_chars:
        return completion.strip()
    tail = completion[-max_chars:]
    return tail.partition(" ")[2].strip() or tail.strip()


def last_result(tail: str) -> str | None:
    """Return the result of the last calculation in the last line: `48 / 2 = <<48/2=24>>24 clips` -> `24`.

    GSM8K's calculator marks and plain equations. On the 7,473 human solutions of GSM8K without their `####` line this
    and math-verify's last number agree with the gold on 98.9 %; the last number alone does on 97.0 %.
    """
    line = tail.rstrip().rpartition("\n")[2]
    result = next(reversed(list(_RESULT.finditer(line))), None)
    return (result.group(1) or result.group(2)).strip() if result else None


def _closed_boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """Return the outermost closed boxes as (start, end, content), and whether an unclosed box follows the last one.

    One pass with a stack of open braces: 100,000 unclosed boxes cost no more than 100,000 characters.
    """
    open_braces: list[tuple[int, int, bool]] = []
    boxes: list[tuple[int, int, str]] = []
    for token in _TOKEN.finditer(text):
        word = token.group()
        if word == "}":
            if not open_braces:
                continue
            start, content_start, is_box = open_braces.pop()
            if is_box:
                while boxes and boxes[-1][0] > start:
                    boxes.pop()
                boxes.append((start, token.end(), text[content_start : token.start()].strip()))
        elif word == "{" or (word.endswith("{") and word != "\\{"):
            open_braces.append((token.start(), token.end(), word != "{"))
    boxes = [box for box in boxes if box[2]]
    last_start = boxes[-1][0] if boxes else -1
    return boxes, any(is_box and start > last_start for start, _, is_box in open_braces)


def _last_box(text: str) -> tuple[str | None, bool]:
    if "boxed" not in text and "fbox" not in text:
        return None, False
    boxes, is_truncated = _closed_boxes(text)
    if not boxes:
        bare = None if is_truncated else next(reversed(_BARE_BOX.findall(text[-_TAIL_CHARS:])), None)
        return bare, is_truncated
    parts = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : parts[0][0]]
        if len(between) > 40 or not _BETWEEN_PARTS.fullmatch(between):
            break
        parts.insert(0, box)
    contents = dict.fromkeys(_unwrap(content) for _, _, content in parts)
    return ", ".join(contents), False


def _unwrap(content: str) -> str:
    """`\\boxed{\\boxed{5}}` -> `5`; other content as is."""
    inner, _ = _closed_boxes(content) if "boxed" in content else ([], False)
    return inner[-1][2] if len(inner) == 1 else content


def _last_hash_line(text: str) -> str | None:
    start = text.rfind("####")
    if start < 0:
        return None
    match = next(reversed(list(_HASHES.finditer(text[max(0, start - _TAIL_CHARS) :]))), None)
    return match.group(1) if match else None


def _last_phrase(tail: str) -> str | None:
    introduction = next(reversed(list(_PHRASE.finditer(tail))), None)
    if introduction is None:
        return None
    phrase = tail[introduction.end() :].partition("\n")[0]
    formulas = list(_INLINE_MATH.finditer(phrase))
    if formulas and phrase.count("$") % 2 == 0:
        parts = [formulas[0]]
        for formula in formulas[1:]:
            if not _BETWEEN_PARTS.fullmatch(phrase[parts[-1].end() : formula.start()]):
                break
            parts.append(formula)
        return ", ".join((part.group(1) or part.group(2) or part.group(3)).strip() for part in parts)
    value = _SENTENCE_END.split(phrase, maxsplit=1)[0].strip(" \t*_\"'`,;:")
    return value if 0 < len(value) <= _MAX_PHRASE_CHARS else None
