"""Answers that are not mathematics: option letters, words, yes and no, times of day, dates and other codes. Pure.

Every rule takes `plain_text` of gold and answer and returns whether they agree, `None` if it does not apply.
"""

from __future__ import annotations

import re

_OPTION = re.compile(r"\(([A-K])\)|(?<![A-Za-z\d'])([A-K])(?![A-Za-z\d'])")
_MARKED_OPTION = re.compile(r"\(([A-K])\)|(?<![A-Za-z\d'])([A-K])(?=[.):])")
_OPTION_START = re.compile(
    r"(?:(?:the|correct|right|answer|option|choice|is)\b[\s:]*)*(?:\(([A-Ka-k])\)|([A-K])(?:[.):]|(?=\s|$|\\|,|;)))",
    re.IGNORECASE,
)
_BARE_OPTION = re.compile(r"[\s(]*([A-Ka-k])[\s).:]*")
_LISTING = re.compile(
    r"\(?([A-K])\)?[\s.:]*(?:(?:,|;|/|\||\+|\\?&|and|or|then|(?=[B-K](?:\s|$)))\s*\(?([A-K])\)?(?![A-Za-z])|\(?([B-K])\)?(?=[.):]|$))"
)
DENIAL = re.compile(
    r"\b(?:not|never|neither|nor|cannot|wrong|incorrect|false|impossible|invalid|instead|rather|except|no\s+longer|isn|aren"
    r"|doesn|don|didn|won|can't|can[^a-z]t)\b|n't\b",
    re.IGNORECASE,
)
_YES_NO = re.compile(r"(?:yes|no|true|false)", re.IGNORECASE)
_YES_NO_START = re.compile(r"(yes|no|true|false)(?=$|\s*[,.;:!-])", re.IGNORECASE)
_FILLERS = {
    "the", "a", "an", "it", "it's", "is", "are", "they", "answer", "final", "correct", "option", "choice", "actually",
    "indeed", "simply", "just", "therefore", "so", "thus", "there", "this", "that", "number", "value",
}  # fmt: skip
_SAME = (
    {"no solution", "no solutions", "no real solution", "no real solutions", "none", "empty set", r"\emptyset"},
    {"undefined", "does not exist", "dne"},
    {"infinite number of solutions", "infinitely many solutions", "infinitely many", "infinite solutions"},
    {"all real numbers", "all reals", "any real number", r"\mathbb{r}", r"(-\infty,\infty)"},
)  # fmt: skip
_CLOCK = re.compile(r"0?(\d{1,2}):(\d{2})(?::(\d{2}))?([ap])?\.?(?:m\.?)?", re.IGNORECASE)
_HOUR = re.compile(r"(\d{1,2})()()([ap])\.?m\.?", re.IGNORECASE)
_NOON = re.compile(r"(?:12)?(noon|midnight)", re.IGNORECASE)
_CODE = re.compile(r"[A-Z]{1,3}\d+|\d+-\d+|\d+(?:[-.:/]\d+){2,}|\d+(?:--?\d+)+")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/\d{4}|\d+(?:\.\d+){2,}|\d{3}-\d{4}")


def compare_choices(gold: str, prediction: str) -> bool:
    """Whether an answer names the options of the gold and no others."""
    expected = set(re.findall("[A-K]", gold))
    if bare := _BARE_OPTION.fullmatch(prediction):
        return {bare.group(1).upper()} == expected
    if len(expected) > 1 or _LISTING.match(prediction):
        names = {next(filter(None, match.groups())) for match in _OPTION.finditer(prediction)}
        return names == expected and not DENIAL.search(prediction)
    start = _OPTION_START.match(prediction)
    if start is None:
        names = {next(filter(None, match.groups())) for match in _MARKED_OPTION.finditer(prediction)}
        return names == expected and not DENIAL.search(prediction)
    if re.search(r"\b(?:or|and)\b[^A-Z]{0,20}(?<![A-Za-z])[B-K](?![A-Za-z])", prediction[start.end() :]):
        return False
    others = {next(filter(None, match.groups())) for match in _MARKED_OPTION.finditer(prediction, start.end())}
    rest = prediction[start.end() :]
    is_denied = re.match(r"\s*(?:\)|:|is|,)*\s*(?:no\b|not\b|wrong|false|incorrect|isn't)", rest, re.IGNORECASE)
    return next(filter(None, start.groups())).upper() in expected and not others - expected and not is_denied


def compare_yes_no(gold: str, prediction: str) -> bool | None:
    """Decide if the gold is yes, no, true or false. An answer that names both, says neither."""
    if not _YES_NO.fullmatch(gold):
        return None
    named = [word.lower() for word in re.findall(r"\b(?:yes|no|true|false)\b", prediction, re.IGNORECASE)]
    start = _YES_NO_START.match(prediction)
    if start is None:
        return compare_texts(gold, prediction)
    opposite = {"yes": "no", "no": "yes", "true": "false", "false": "true"}[gold.lower()]
    return start.group(1).lower() == gold.lower() and opposite not in named[1:]


def compare_texts(gold: str, prediction: str) -> bool:
    """Whether two phrases are the same but for case, punctuation and words that say nothing."""
    keys = [re.sub(r"\s+", " ", text.lower()).strip(" .!,;") for text in (gold, prediction)]
    if any(set(keys) <= same or {key.replace(" ", "") for key in keys} <= same for same in _SAME):
        return True
    words, given = (re.findall(r"[a-z0-9']+|[^\sa-z0-9.,;:!?(){}\"]", key.replace("-", " ")) for key in keys)
    words, given = ([w for w in each if w not in ("the", "a", "an")] or each for each in (words, given))
    if words == given:
        return bool(words)
    fillers = _FILLERS - set(words)
    return [word for word in given if word not in fillers] == words


def compare_clocks(gold: str, prediction: str) -> bool | None:
    """Decide about times of day. A gold such as 3:05 may be a ratio; 05:00, 15:05 and 3:05 pm may not.

    Interpretation: where one side says neither am nor pm, 3:05 is 3:05 pm; 15:05 is that as well.
    """
    expected, given = _time(gold), _time(prediction)
    if expected is None:
        return None
    if given is None:
        is_time = gold.startswith("0") or re.search(r":00|[ap]\.?m|noon|night", gold.lower())
        return False if is_time or re.fullmatch(r"\d+(?:\.\d+)?", prediction) else None
    hours, rest, half = expected
    given_hours, given_rest, given_half = given
    if (half and given_half) or max(hours, given_hours) > 12 or 0 in (hours, given_hours):
        return (_of_day(hours, half), rest) == (_of_day(given_hours, given_half), given_rest)
    return (hours, rest) == (given_hours, given_rest)


def compare_codes(gold: str, prediction: str) -> bool | None:
    """Decide about dates, telephone numbers, scores (`9-11`), version numbers: nothing is computed from them."""
    gold, prediction = (re.sub(r"\s*-+\s*", "-", text).replace(" ", "") for text in (gold, prediction))
    if _CODE.fullmatch(gold):
        return gold == prediction
    return False if _DATE.fullmatch(prediction) else None


def _time(text: str) -> tuple[int, tuple[str, str], str] | None:
    """Return (hour, (minutes, seconds), 'a', 'p' or '')."""
    text = text.replace(" ", "")
    if noon := _NOON.fullmatch(text):
        return 12, ("00", "00"), "p" if noon.group(1).lower() == "noon" else "a"
    match = _CLOCK.fullmatch(text) or _HOUR.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds, half = match.groups(default="")
    return int(hours), (minutes or "00", seconds or "00"), half.lower()


def _of_day(hours: int, half: str) -> int:
    return hours % 12 + (12 if half == "p" else 0) if half else hours
