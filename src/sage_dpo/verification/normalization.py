"""Answers as cleaner LaTeX of the same meaning, for every comparison that follows. Pure: text in, text out.

    normalize_answer   what math-verify gets to see          canonical    the same without optional spelling
    prepare_pair       both answers, without their units     plain_text   for words, option letters, times of day

The quirks handled are those of the benchmarks' own gold answers: `4.5e33`, `1,450`, `025`, `\\$32,\\!348`, `90^\\circ`,
`864 \\mbox{ inches}^2`, `x \\in [-2,7]`, `05\\!:\\!00`, `-1./3`, `np.arcsin(..)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

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
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname|rm)\s*\{([^{}]*)\}")
_MEMBER = re.compile(r"[A-Za-z]\s*\\in(?![A-Za-z])\s*(?=[\[({\\])")


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
def plain_text(answer: str) -> str:
    """Text commands unwrapped, spaces single: for letters, clocks and words."""
    text = normalize_answer(answer)
    text = re.sub(r"\\[,;: ]|~", " ", _TEXT.sub(r" \1 ", text))
    return re.sub(r"\s+", " ", text.replace("**", "")).strip(" .$")


def _drop_unmarked_unit(answer: str, unit: str) -> str:
    name, _, power = unit.partition("^")
    exponent = rf"\^\{{?{power}\}}?" if power else ""
    match = re.fullmatch(rf"(.*(?:[\d)}}]|\\pi))\s*{re.escape(name)}{exponent}", answer)
    return match.group(1) if match else answer
