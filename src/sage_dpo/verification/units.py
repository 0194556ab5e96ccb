"""Split a trailing unit from an answer, only where it cannot be a variable.

math-verify drops any trailing `m`, `t`, `s`, ... and so accepts 6 for the formula `6m`. Here a unit is split off if it
is marked as text (`20 \\text{ m}`), separated by a LaTeX space (`576\\pi\\;m^{2}`), a currency or degree sign, a known
unit of two letters or more (`20 cm^{2}`), or a plain word after a number (`15 apples`).
"""

from __future__ import annotations

import re

_ALIASES = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "in": "in inch inche",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "mg": "mg milligram",
    "g": "g gram gm",
    "kg": "kg kilogram",
    "lb": "lb pound",
    "oz": "oz ounce",
    "ml": "ml milliliter millilitre",
    "l": "l liter litre",
    "s": "s sec second",
    "min": "min minute",
    "h": "h hr hour",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "yr year",
    "dollar": "dollar",
    "cent": "cent",
    "degree": "deg degree",
    "mph": "mph",
    "unit": "unit",
}
_CANONICAL = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}
_AMBIGUOUS = {"in", "mg", "gm", "ml"}
"""Known units that unmarked may be a word or a product of variables."""
_KNOWN = sorted((alias for alias in _CANONICAL if len(alias) > 1 and alias not in _AMBIGUOUS), key=len, reverse=True)
_EXPONENT = r"(?:\^(?:\{[23]\}|[23]))?"
_KNOWN_UNIT = rf"(?:(?:square|cubic|sq\.?|cu\.?)\s*)?(?:{'|'.join(_KNOWN)})s?(?:\s*(?:/|per)\s*[a-z]+)?"
_MARKED = re.compile(
    rf"(?P<body>.*[\w)}}\]%$°])\s*(?:\\[,;: ]|~)*\s*\\(?:text|mbox|mathrm|textrm|rm|hbox)\s*\{{(?P<unit>[^{{}}]*)\}}\s*"
    rf"(?P<exponent>{_EXPONENT})"
)
_SPACED = re.compile(rf"(?P<body>.*[\d)}}i])\s*(?:\\[;,: ]|~)\s*(?P<unit>m|{_KNOWN_UNIT})(?P<exponent>{_EXPONENT})")
_UNMARKED = re.compile(
    rf"(?P<body>.*(?:\d|[)}}]|\\pi))\s*(?P<unit>{_KNOWN_UNIT})(?P<exponent>{_EXPONENT})", re.IGNORECASE
)
_DEGREES = re.compile(r"(?P<body>.*?)\s*(?:\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree))|\\degree)")
_WORDS = re.compile(r"(?P<body>[-+]?[\d.,/]*\d)\s+(?P<unit>[A-Za-z][A-Za-z' -]{2,60})(?P<exponent>)")
_NOT_UNITS = re.compile(
    r"\b(?:and|or|to|not|over|times|plus|minus|mod|base|hundred|thousand|[mbtr]illion|dozen|score|percent|pct|squared|cubed"
    r"|root|sqrt|pi|log|ln|sin|cos|tan|exp|factorial|half|halves|third|thirds|fourths?|quarters?|fifths?|sixths?"
    r"|eighths?|tenths?|hundredths?|thousandths?|infinity|a\.?m|p\.?m|remainder|where|with|for|if|when)\b",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_MAX_CHARS = 300
_CURRENCY = re.compile(r"(?P<sign>[-+]?)\s*(?:\\\$|[$€£])\s*(?P<body>[-+]?[\d.].*)")


def split_unit(answer: str) -> tuple[str, str]:
    """Return (answer without its unit, canonical unit or ''). `20 cm^{2}` -> (`20`, `cm^2`), `\\$5` -> (`5`, `dollar`).

    The unit is canonical for the common ones (`inches` -> `in`, `square feet` -> `ft^2`), lower case as written else.
    """
    if len(answer) > _MAX_CHARS:
        return answer, ""
    if match := _CURRENCY.fullmatch(answer):
        body, _ = split_unit(match["body"])
        return match["sign"] + body, "dollar" if "$" in answer else ""
    if match := _DEGREES.fullmatch(answer):
        return match["body"], "degree"
    for pattern in (_MARKED, _SPACED, _UNMARKED, _WORDS):
        match = pattern.fullmatch(answer)
        if match is None:
            continue
        unit = match["unit"].strip()
        if not unit or _NOT_UNITS.search(unit) or unit.startswith("("):
            return answer, ""
        if pattern is not _MARKED and _VARIABLE.search(match["body"]):
            return answer, ""
        return match["body"].strip(), _canonical_unit(unit, match["exponent"])
    return answer, ""


def units_conflict(first: str, second: str) -> bool:
    """Whether both units are known and differ (cents against dollars). Unknown words never conflict."""
    return first != second and _is_known(first) and _is_known(second) and "unit" not in first + second


def _is_known(unit: str) -> bool:
    return unit.partition("^")[0] in _ALIASES


def _canonical_unit(unit: str, exponent: str) -> str:
    words = unit.lower().replace(".", "").split()
    power = exponent.strip("^{}")
    if words and words[0] in ("square", "sq"):
        words, power = words[1:], "2"
    elif words and words[0] in ("cubic", "cu"):
        words, power = words[1:], "3"
    name = " ".join(words)
    name = _CANONICAL.get(name) or _CANONICAL.get(name.removesuffix("s")) or name
    return f"{name}^{power}" if power else name
