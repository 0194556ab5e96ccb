"""Answers as cleaner LaTeX of the same meaning, for every comparison that follows. Pure: text in, text out.

    normalize_answer   what math-verify gets to see          canonical    the same without optional spelling
    prepare_pair       both answers, without their units     plain_text   for words, option letters, times of day

The quirks handled are those of the benchmarks' own gold answers: `4.5e33`, `1,450`, `025`, `\\$32,\\!348`, `90^\\circ`,
`864 \\mbox{ inches}^2`, `x \\in [-2,7]`, `05\\!:\\!00`, `-1./3`, `np.arcsin(..)`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from sage_dpo.verification.units import split_unit, units_conflict

_SPELLINGS: dict[str | int, str] = {
    "\u2212": "-", "\u2013": "-", "\u2044": "/", "\u00f7": "/", "\u2019": "'", "\u00b2": "^{2}", "\u00b3": "^{3}",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ", "\u00b0": r"^{\circ}", "\u221a": r"\sqrt ",
    "\u03c0": r"\pi ", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00b1": r"\pm ",
    "\u221e": r"\infty ", "\u2205": r"\emptyset ", "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ",
    "\u2208": r"\in ", "\u222a": r"\cup ", "\u2229": r"\cap ", "\u211d": r"\mathbb{R}",
    "\u3001": ",", "\u3002": ".",
    "\u00bd": r"\frac{1}{2}", "\u00bc": r"\frac{1}{4}", "\u00be": r"\frac{3}{4}", "\u2153": r"\frac{1}{3}",
    "\u2154": r"\frac{2}{3}", "\u27e8": r"\langle ", "\u27e9": r"\rangle ",
    **{0xFF01 + index: chr(0x21 + index) for index in range(94)},  # full-width forms
    **{0x1D7CE + index: str(index % 10) for index in range(50)},  # bold, double-struck and other digits
    0xB9: "^{1}", 0x2070: "^{0}", **{0x2070 + value: f"^{{{value}}}" for value in range(4, 10)},
}  # fmt: skip
_CHARACTERS = str.maketrans(_SPELLINGS)
_TEXT_COMMAND = r"\\(?:text(?:it|bf|rm|sf|tt|normal|up|md|sl)?|mbox|hbox)\s*\{"
_PERCENT = r"(?:percent|per\s?cent|pct)"
_ORDINAL = r"(?:st|nd|rd|th)"
_REWRITES: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(r"^[*_`\s]+(?=[^*_`\s])|(?<=[^*_`\s])[*_`]+[.\s]*$"), ""),  # emphasis
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<=\^\{\d)\}\^\{(?=\d\})"), ""),  # of several raised digits
    (re.compile(r"\\(?:text)?color\s*(?:\[\w*\])?\{\s*[\w!]+\s*\}"), ""),
    (re.compile(r"\\(?:underline|bm|boldsymbol|pmb|ensuremath|(?:display|text)style|(?:l|L)arge|LARGE|huge|bf)(?![A-Za-z])\s*"),
     ""),
    (re.compile(_TEXT_COMMAND), r"\\text{"),
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))"), ""),  # a comma that separates thousands, not list elements
    (re.compile(r"(?<=\d)\\[,;: ]\s*(?=\d{3}(?!\d))"), " "),
    (re.compile(r"\\!\s*|\\(?:bigl?|bigr|Bigl?|Bigr|limits)(?![A-Za-z])"), ""),
    (re.compile(r"\\m?(?:left|right)(?=[\[\]()|.\\<>])"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leqslant|leq)(?![A-Za-z])|<=|=<"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq)(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\neq(?![A-Za-z])|\\not\s*=|!="), r"\\ne "),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\text\s*\{\s*infinity\s*\}|(?<![\\A-Za-z])(?:inf|oo|infty|infinity)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"(?<![\\A-Za-z])[Pp]i(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\A-Za-z])sqrt(?=[\s{\d])"), r"\\sqrt"),
    (re.compile(r"\\q?quad(?![A-Za-z])"), " "),
    (re.compile(rf"(?<=\d)\s*(?:\^\s*\{{?\s*)?(?:\\(?:text|mathrm)\s*\{{\s*{_ORDINAL}\s*\}}|{_ORDINAL}(?![A-Za-z]))\s*\}}?"),
     ""),
    (re.compile(rf"(?<=[\d}}])\s*(?:\\text\{{\s*{_PERCENT}\.?\s*\}}|{_PERCENT}\b\.?)"), r"\\%"),
    # an angle of a function is a number of radians for math-verify
    (re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc))\s*[({]?\s*(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree)\s*[)}]?"),
     r"\1(\\frac{\2\\pi}{180})"),
    # degrees go, except at the end, where they are a unit (`split_unit`)
    (re.compile(r"(?:\s*\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![A-Za-z]))|\\degree)"
                r"(?!\s*(?:\\text\{\s*)?[CF]?\}?\.?$)"), ""),
    (re.compile(r"(?<!\\)%"), r"\\%"),
    (re.compile(r"^\\text\s*\{([^{}]*\d[^{}]*)\}$"), r"\1"),
    (re.compile(r"\bnp\.(?=[a-z])"), ""),
    (re.compile(r"(?<![\\A-Za-z])(?=(?:arc)?(?:sin|cos|tan)\b)"), r"\\"),
    (re.compile(r"(\\log_(?:\d|\{[^{}]+\}))\s*([\dA-Za-z]+)(?![\w(^])"), r"\1(\2)"),
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
_REPEATING = re.compile(r"(?<![\w.])(\d{0,9})\.(\d{0,30})(?:\\(?:overline|bar|dot|overbar)\s*(?:\{(\d{1,30})\}|(\d)))")
_DOUBLE_FACTORIAL = re.compile(r"(?<![\w.!)}])(\d{1,2})!!(?!!)")
_MULTIPLES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_MULTIPLE = re.compile(
    r"(-?)((?:\\?\$)?)\s*(\d[\d,]{0,20}(?:\.\d{1,20})?)\s*(?:\\[,; ]|~)?\s*(?:\\text\{)?\s*"
    rf"({'|'.join(_MULTIPLES)})s?\b\s*([^{{}}]*)\}}?"
)
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_NUMBER_WORDS = {
    **{word: value for value, word in enumerate(_UNITS.split())},
    **{
        w: 10 * v
        for v, w in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2)
    },
}
_E_NOTATION = re.compile(r"(?<![\w.}])(\d+(?:\.\d*)?|\.\d+)[eE]([-+]?)0*(\d+)(?![\w.{^])")
_SET_BUILDER = re.compile(
    r"\\\{\s*([A-Za-z])\s*(?:\\in\s*(?:\\mathbb\s*\{?R\}?|\\R)\s*)?(?:\||\\mid|:)\s*([^|:]*(?:<|>|\\le|\\ge)[^|:]*)\\\}"
)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|mathsf|mathit|operatorname|rm)\s*\{([^{}]*)\}")
_MEMBER = re.compile(
    r"\(\s*[A-Za-z](?:\s*,\s*[A-Za-z]){1,3}\s*\)\s*(?:=|\\in(?![A-Za-z]))\s*(?=[(\\])|[A-Za-z]\s*\\in(?![A-Za-z])\s*(?=[\[({\\])"
)


@lru_cache(maxsize=1024)  # the samples of a problem share their gold, and most of them a few answers
def normalize_answer(answer: str) -> str:
    """Return `answer` as cleaner LaTeX of the same meaning; this is what math-verify gets to see (in a box)."""
    if answer.isascii() and answer.isdecimal():
        return answer  # as most answers are
    text = answer.translate(_CHARACTERS).strip()
    for opening, closing in _DELIMITERS:
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            text = inner.strip() if opening not in inner else text
    text = _spelled_number(text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _without_outer_braces(text)
    text = _DOUBLE_FACTORIAL.sub(
        lambda match: str(math.prod(range(int(match[1]), 0, -2))), _REPEATING.sub(_fraction, text)
    )
    text = _multiplied(text)
    text = _E_NOTATION.sub(r"\1 \\times 10^{\2\3}", text.strip())
    text = _SET_BUILDER.sub(r"\2", text) if len(text) < 300 and _SET_BUILDER.fullmatch(text) else text
    text = _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text
    text = re.sub(r"^(?:[A-Za-z]\s*)?(?:\\approx|\\simeq)\s*|^=\s*", "", text)
    return text.rstrip(" .") if not text.endswith((r"\.", r"\ .")) else text


def _without_outer_braces(text: str) -> str:
    """`{5}` -> `5`, what is left of `\\color{red}{5}`."""
    text = text.strip()
    while text.startswith("{") and text.endswith("}") and "{" not in text[1:-1] and "}" not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _fraction(match: re.Match[str]) -> str:
    """`0.8\\overline{3}` -> `\\frac{75}{90}`, that is (83 - 8) / (99...900...0), a nine for each repeated digit."""
    whole, fixed, repeated = match[1] or "0", match[2], match[3] or match[4]
    value = Fraction(int(whole + fixed + repeated) - int(whole + fixed), (10 ** len(repeated) - 1) * 10 ** len(fixed))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}" if value.denominator > 1 else str(value)


def _multiplied(text: str) -> str:
    """`2.5\\text{ million}` -> `2500000`; what follows, a unit, is kept."""
    match = _MULTIPLE.fullmatch(text) if len(text) < 120 else None
    if match is None:
        return text
    sign, currency, number, word, rest = match.groups()
    value = Fraction(number.replace(",", "")) * _MULTIPLES[word]
    digits = str(value) if value.denominator == 1 else f"{float(value)}"
    return f"{sign}{currency}{digits}" + (f" {rest.strip()}" if rest.strip() else "")


def _spelled_number(text: str) -> str:
    """`\\text{twenty-one apples}` -> `21 apples`; other text as is."""
    match = re.fullmatch(r"(?:\\\w+\s*\{)?\s*([A-Za-z][A-Za-z -]{1,60}?)\s*\}?\.?", text)
    words = re.split(r"[ -]+", match.group(1).lower()) if match else []
    value = count = 0
    for word in words:
        if word == "and" and count:
            continue
        if word in _NUMBER_WORDS:
            value += _NUMBER_WORDS[word]
        elif word in ("hundred", "thousand", "million") and count:
            value *= _MULTIPLES[word]
        else:
            break
        count += 1
    if not count or (words[count:] and words[0] == "one"):
        return text
    return " ".join([str(value), *words[count + words[:count].count("and") :]])


def prepare_pair(gold: str, prediction: str) -> tuple[str, str, bool]:
    """Normalise both, drop their units where safe; the flag says that the units are known and differ.

    A unit that only one side marks (`2\\text{ s}` against `2s`) is dropped from the other side too.
    """
    (gold, gold_unit), (prediction, unit) = split_unit(normalize_answer(gold)), split_unit(normalize_answer(prediction))
    if gold_unit and not unit:
        prediction = _drop_unmarked_unit(prediction, gold_unit)
    elif unit and not gold_unit:
        gold = _drop_unmarked_unit(gold, unit)
    if (gold_unit and prediction.endswith("%")) or (unit and gold.endswith("%")):
        return gold, prediction, "%" not in (gold_unit, unit)
    if unit == "K" and not gold_unit:  # `5K` is no spelling of 5: thousands, or a temperature nobody asked for
        return gold, prediction, True
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
