"""Read the final answer out of a completion: text in, text out, linear in the length of the text.

What stands before the last `</think>` is no answer. Then, in this order: the last `<answer>...</answer>`; the last
`\\boxed{...}` (boxes that follow each other are one answer of several parts), unless a line `Final answer: ...` or
`#### ...` comes after it; the last GSM8K line `#### answer` or "the answer is ...", whichever is later. A completion
without any of these is unmarked (`statements`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from sage_dpo.config import VerificationSettings
from sage_dpo.verification.boxes import last_boxed_answer
from sage_dpo.verification.statements import stated_value

MAX_ANSWER_CHARS = 4_000
"""A longer "answer" is a derivation or a loop, not an answer; the longest gold of the eight suites has 700."""

MAX_TEXT_CHARS = 200_000
"""Only so much of the end of a completion is read; tags of thinking are looked for in all of it."""

Tags = tuple[tuple[str, str], ...]

_DEFAULTS = VerificationSettings()
_TAIL_CHARS = 2_000
_INVISIBLE = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_HASHES = re.compile(r"^[ \t]{0,8}####(?!#)", re.MULTILINE)
_LABEL = r"(?:(?:final|correct|my)\s{1,3}){0,2}answer\b"
_PHRASE = re.compile(
    rf"(?:\b(?:the|my|our|final|correct)\s{{1,3}}{_LABEL}[^.\n:=]{{0,40}}?|^\W{{0,6}}{_LABEL}\W{{0,4}}?)"
    r"(?:\bis\b|\bare\b|:|=)[:*\s]{0,9}"
    r"|\b(?:correct|right|best)\s{1,3}(?:option|choice)\s{1,3}is\b[:*\s]{0,9}",
    re.IGNORECASE | re.MULTILINE,
)
_FINAL_LINE = re.compile(
    r"(?:^|[.!]\s)\W{0,6}(?:the\s{1,3})?(?:final\s{1,3}answer\W{0,4}?(?:\bis\b|:|=)|answer\W{0,4}?[:=])[:*\s]{0,9}",
    re.IGNORECASE | re.MULTILINE,
)
_VALUE = re.compile(r"\d|\$|^\W*\w+\W*$")


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was read out of a completion.

    Attributes:
        answer: the answer as written, ends trimmed; `None` if the completion marks none.
        is_prose: the answer was read out of a sentence ("the answer is ..."), not out of a mark of its own.
        is_truncated: the completion ends inside an unclosed box or tag, so nothing in its tail can be trusted.
        is_too_long: an answer is marked, but it is longer than `MAX_ANSWER_CHARS`.
        text: what follows the thinking, at most `MAX_TEXT_CHARS` of its end; an unmarked answer is looked for there.
    """

    answer: str | None
    is_prose: bool = False
    is_truncated: bool = False
    is_too_long: bool = False
    text: str = ""


def extract_answer(
    completion: str, thinking_tags: Tags = _DEFAULTS.thinking_tags, answer_tags: Tags = _DEFAULTS.answer_tags
) -> Extraction:
    """Return the marked final answer of `completion`. Tags are pairs of opening and closing text, in any case."""
    text, is_thinking = _after_last(completion, thinking_tags)
    if is_thinking:
        return Extraction(None, is_truncated=True)
    text = _clean(text[-MAX_TEXT_CHARS:])
    inside, is_cut = _inside_last(text, answer_tags)
    if is_cut:
        return Extraction(None, is_truncated=True)
    found = _marked(text if inside is None else inside)
    if inside and found.answer is None and not found.is_truncated:
        found = Extraction(inside)
    if found.answer is not None and len(found.answer) > MAX_ANSWER_CHARS:
        return Extraction(None, is_too_long=True)
    return Extraction(found.answer, found.is_prose, found.is_truncated, text=text)


def _clean(text: str) -> str:
    """Drop characters that nobody sees, and replace those that no file can hold."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", _INVISIBLE.sub("", text))


@lru_cache(maxsize=8)
def _pattern(tags: Tags) -> re.Pattern[str]:
    opening, closing = ("|".join(map(re.escape, words)) for words in zip(*tags, strict=True))
    return re.compile(rf"(?P<closing>{closing})|(?P<opening>{opening})", re.IGNORECASE)


@lru_cache(maxsize=8)
def _first_characters(tags: Tags) -> frozenset[str]:
    return frozenset(character for pair in tags for tag in pair for character in (tag[0].lower(), tag[0].upper()))


def _after_last(text: str, tags: Tags) -> tuple[str, bool]:
    """Return what follows the last closing tag, and whether one is open then. Fast, for texts of many megabytes."""
    if not any(character in text for character in _first_characters(tags)):  # as in most texts
        return text, False
    lower = text.lower()
    lower = lower if len(lower) == len(text) else text  # a few characters have no lower case of their own length
    end = max((place + len(tag) for _, tag in tags if (place := lower.rfind(tag.lower())) >= 0), default=0)
    return text[end:], any(lower.find(tag.lower(), end) >= 0 for tag, _ in tags)


def _inside_last(text: str, tags: Tags) -> tuple[str | None, bool]:
    """Return what stands inside the last closed pair of tags, and whether there are only unclosed ones.

    Pairs that follow each other are parts of one answer, as boxes are.
    """
    lower = text.lower()
    if not any(tag.lower() in lower for tag, _ in tags):  # as in nearly all texts
        return None, False
    start: int | None = None
    parts: list[str] = []
    end = 0
    for match in _pattern(tags).finditer(text):
        if match.lastgroup == "opening":
            start = match.end()
            opening = match.start()
        elif start is not None:
            if parts and text[end:opening].strip(" \n,;"):
                parts = []
            parts.append(text[start : match.start()].strip())
            start, end = None, match.end()
    parts = list(dict.fromkeys(part for part in parts[-9:] if part))
    return ", ".join(parts) if parts else None, not parts and start is not None


def _marked(text: str) -> Extraction:
    box = last_boxed_answer(text)
    if box.answer is not None:
        later = text[box.end :][-_TAIL_CHARS:]
        line = _last_hash_line(later)[0] or _phrase_after(later, _FINAL_LINE)[0]
        return Extraction(line if line is not None and _VALUE.search(line) else box.answer)
    if box.is_truncated:
        return Extraction(None, is_truncated=True)
    line, start = _last_hash_line(text)
    phrase, phrase_start = _phrase_after(text[-_TAIL_CHARS:], _PHRASE)
    is_prose = line is None or (phrase is not None and phrase_start + max(0, len(text) - _TAIL_CHARS) > start)
    return Extraction(phrase, is_prose=phrase is not None) if is_prose else Extraction(line)


def _last_hash_line(text: str) -> tuple[str | None, int]:
    """Return what the last line `#### ...` says, and where it begins."""
    for match in reversed(list(_HASHES.finditer(text)) if "####" in text else []):
        end = text.find("\n", match.end())
        line = text[match.end() : end if end >= 0 else len(text)].strip()
        if line:
            return line, match.start()
    return None, -1


def _phrase_after(tail: str, introductions: re.Pattern[str]) -> tuple[str | None, int]:
    introduction = next(reversed(list(introductions.finditer(tail))), None)
    if introduction is None:
        return None, -1
    return stated_value(tail[introduction.end() :].partition("\n")[0]), introduction.start()
