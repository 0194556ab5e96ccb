"""Split a trailing unit from an answer, only where it cannot be a variable, and tell when two units differ.

math-verify drops any trailing `m`, `t`, `s`, ... and so accepts 6 for the formula `6m`. Here a unit is split off if it
is marked as text (`20 \\text{ m}`), separated by a LaTeX space (`576\\pi\\;m^{2}`), a currency or degree sign, a known
unit of two letters or more (`20 cm^{2}`), or plain words after a number (`15 apples`).
"""

from __future__ import annotations

import re

_ALIASES = {
    "nm": "nm nanometer nanometre", "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre",
    "m": "m meter metre", "km": "km kilometer kilometre", "in": "in inch inche", "ft": "ft foot feet", "yd": "yd yard",
    "mi": "mi mile", "mg": "mg milligram", "g": "g gram gm", "kg": "kg kilogram", "t": "ton tonne", "lb": "lb pound",
    "oz": "oz ounce", "ml": "ml mL milliliter millilitre", "l": "l L liter litre", "ms": "ms millisecond",
    "s": "s sec second", "min": "min minute", "h": "h hr hour", "day": "d day", "week": "wk week", "month": "month",
    "year": "yr year", "dollar": "dollar USD usd buck", "cent": "cent", "euro": "euro EUR", "pound sterling": "GBP",
    "degree": "deg degree", "C": "C celsius", "F": "F fahrenheit", "rad": "rad radian",
    "unit": "unit", "%": "percent pct",
    "Hz": "Hz hertz", "kHz": "kHz kilohertz", "MHz": "MHz megahertz", "N": "N newton", "J": "J joule", "kJ": "kJ",
    "W": "W watt", "kW": "kW kilowatt", "V": "V volt", "A": "A amp ampere", "Pa": "Pa pascal", "K": "K kelvin",
    "mol": "mol mole", "ppm": "ppm", "mi/h": "mph", "km/h": "kph kmh kmph", "m/s": "mps", "ft/s": "fps",
}  # fmt: skip
_CANONICAL = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}
_AMBIGUOUS = {"in", "mg", "gm", "ml", "ms", "mi", "mole", "mol", "watt", "pct", "percent"}
"""Known units that unmarked may be a word or a product of variables, or are handled as numbers."""
_KNOWN = sorted(
    (re.escape(alias) for alias in _CANONICAL if len(alias) > 1 and alias not in _AMBIGUOUS), key=len, reverse=True
)
_EXPONENT = r"(?:\^(?:\{\s?-?[1-3]\s?\}|[23]))?"
_KNOWN_UNIT = rf"(?:(?:square|cubic|sq\.?|cu\.?)\s*)?(?:{'|'.join(_KNOWN)})s?(?:\s*(?:/|per)\s*[a-z]+)?"
_SPACE = r"(?:\\[,;: ]|~|\s)"
_TEXT_UNIT = rf"\\(?:text|mbox|mathrm|textrm|rm|hbox)\s?\{{[^{{}}]*\}}{_EXPONENT}"
_MARKED = re.compile(
    rf"(?P<body>.*?[\w)}}\]%$°]){_SPACE}*(?P<unit>{_TEXT_UNIT}(?:{_SPACE}*(?:(?:/|\\cdot|\\times){_SPACE}*)?{_TEXT_UNIT})*)"
)
_FRACTION = re.compile(
    rf"(?P<body>.*?[\w)}}\]]){_SPACE}*"
    r"\\frac\{\s*\\(?:text|mathrm)\{(?P<top>[^{}]*)\}\s*\}"
    rf"\{{\s*\\(?:text|mathrm)\{{(?P<bottom>[^{{}}]*)\}}(?P<power>{_EXPONENT})\s*\}}"
)
_SPACED = re.compile(rf"(?P<body>.*[\d)}}i])\s*(?:\\[;,: ]|~)\s*(?P<unit>(?:m|{_KNOWN_UNIT}){_EXPONENT})")
_UNMARKED = re.compile(rf"(?P<body>.*(?:\d|[)}}]|\\pi))\s*(?P<unit>{_KNOWN_UNIT}{_EXPONENT})", re.IGNORECASE)
_DEGREES = re.compile(
    r"(?P<body>.*?)\s*(?:\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree))|\\degree)\s*(?:\\(?:text|mathrm)\{\s*)?(?P<scale>[CF]?)\}?"
)
_WORDS = re.compile(r"(?P<body>[-+]?[\d.,/]*\d)\s+(?P<unit>[A-Za-z][A-Za-z'/ -]{2,60})")
_BRACKETED = re.compile(r"(?P<body>[-+]?[\d.,/]*\d)\s*(?:\\text\{)?\s*\((?P<unit>[A-Za-z][A-Za-z' ]+)\)\s*\}?")
_NOT_UNITS = re.compile(
    r"\b(?:and|or|to|not|over|times|plus|minus|mod|base|hundred|thousand|[mbtr]illion|dozen|score|percent|pct|squared|cubed"
    r"|root|sqrt|pi|log|ln|sin|cos|tan|exp|factorial|half|halves|third|thirds|fourths?|quarters?|fifths?|sixths?"
    r"|eighths?|tenths?|hundredths?|thousandths?|infinity|a\.?m|p\.?m|noon|midnight|remainder|where|with|for|if|when|is|are"
    r"|was|be|does|because|since|but|wrong|incorrect|instead|than|no|never|maybe|which|so|(?-i:[kMB]))\b|[?=<>\d]",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_MAX_CHARS = 300
_SIGNS = {r"\$": "dollar", "$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee"}
_CURRENCY = re.compile(r"(?P<sign>[-+]?)\s*(?P<currency>\\\$|[$€£¥₹])\s*(?P<body>[-+]?[\d.].*)")
_CURRENCY_AFTER = re.compile(r"(?P<body>.*\d)\s*(?P<currency>[€£¥₹])")
_MINOR = {
    "of",
    "the",
    "in",
    "total",
    "different",
    "distinct",
    "possible",
    "each",
    "all",
    "altogether",
    "more",
    "such",
    "a",
}


def split_unit(answer: str) -> tuple[str, str]:
    """Return (answer without its unit, canonical unit or ''). `20 cm^{2}` -> (`20`, `cm^2`), `\\$5` -> (`5`, `dollar`).

    Known units have one name (`meters per second`, `m/s`, `m \\cdot s^{-1}`); other words are as written, singular.
    """
    if len(answer) > _MAX_CHARS:
        return answer, ""
    if match := _CURRENCY.fullmatch(answer):
        body, _ = split_unit(match["body"])
        return match["sign"] + body, _SIGNS[match["currency"]]
    if match := _CURRENCY_AFTER.fullmatch(answer):
        return match["body"], _SIGNS[match["currency"]]
    if match := _DEGREES.fullmatch(answer):
        return match["body"], f"degree {match['scale']}".strip()
    if match := _FRACTION.fullmatch(answer):
        return match["body"], _canonical_unit(f"{match['top']}/{match['bottom']}{match['power']}")
    for pattern in (_BRACKETED, _MARKED, _SPACED, _UNMARKED, _WORDS):
        match = pattern.fullmatch(answer)
        if match is None:
            continue
        unit = re.sub(r"\\(?:text|mbox|mathrm|textrm|rm|hbox)\s*\{([^{}]*)\}|\\[,;: ]|~", r" \1", match["unit"]).strip()
        if not unit or _NOT_UNITS.search(re.sub(r"\^\{?\s?-?\d\s?\}?", "", unit)) or unit.startswith("("):
            return answer, ""
        if pattern is not _MARKED and _VARIABLE.search(match["body"]):
            return answer, ""
        return match["body"].strip(), _canonical_unit(unit)
    return answer, ""


def units_conflict(first: str, second: str) -> bool:
    """Whether two units, both given, differ: cents against dollars, cats against dogs, m/s against m.

    `unit` stands for any other of the same power; of other words one side may have more (`red apples`, `apples`).
    """
    if not first or not second or first == second:
        return False
    if {first, second} & {"dollar"} and first.partition("/")[0] == second.partition("/")[0]:
        return False  # `$15` for dollars an hour
    if any(unit.partition("^")[0] == "unit" for unit in (first, second)):
        return _power(first) != _power(second)
    if _is_known(first) and _is_known(second):
        return True
    a, b = (set(re.findall(r"[A-Za-z%]+", unit)) - _MINOR for unit in (first, second))
    return not (a <= b or b <= a)


def _power(unit: str) -> str:
    return unit.partition("^")[2] or "1"


def _is_known(unit: str) -> bool:
    return all(part.partition("^")[0] in _ALIASES for part in re.split(r"[/*]", unit))


def _canonical_unit(unit: str) -> str:
    """`square meters per second` -> `m^2/s`. What stands below the bar follows a `/`, also if written as a power."""
    top, *bottom = re.split(r"/|\bper\b|\ban\b(?=\s*hour)", unit.replace(r"\cdot", " ").replace(r"\times", " "))
    parts = [*_factors(top), *("/" + part for below in bottom for part in _factors(below))]
    parts = ["/" + part.replace("^-", "^").removesuffix("^1") if "^-" in part else part for part in parts]
    if all(_is_known(part.lstrip("/")) for part in parts):
        above, below = ([part for part in parts if part.startswith("/") is side] for side in (False, True))
        return "*".join(sorted(above)) + "".join(sorted(below))
    return " ".join(part.replace("/", "per ") for part in parts)


def _factors(text: str) -> list[str]:
    words = re.sub(r"\s*\^\s*\{?\s*(-?\d)\s*\}?", r"^\1", text).replace(".", "").split()
    factors: list[str] = []
    power = ""
    for word in words:
        name, _, exponent = word.partition("^")
        if name.lower() in ("square", "sq", "cubic", "cu"):
            power = "2" if name.lower().startswith("s") else "3"
        elif name.lower() in ("squared", "cubed") and factors:
            factors[-1] += "^2" if name.lower() == "squared" else "^3"
        else:
            exponent = exponent or power
            factors.append(_name(name) + (f"^{exponent}" if exponent else ""))
            power = ""
    return factors


def _name(word: str) -> str:
    singular = word.removesuffix("s") if len(word) > 2 else word
    for name in (word, singular, word.lower(), singular.lower()):
        if name in _CANONICAL:
            return _CANONICAL[name]
    return word if len(word) <= 3 and not word.islower() else singular.lower()  # mW is not MW
