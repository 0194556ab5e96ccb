"""Success rates as people write them: in [0, 1], as text, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def plain_rates(values: Sequence[Any]) -> list[float | None] | None:
    """Return a column's success rates in [0, 1], `None` for gaps; or `None` if it does not plainly hold them.

    Plain are numbers in [0, 1], also as text; text with a percent sign; and numbers from 0 to 100 of which the largest
    is 100. With a smaller one they may as well be counts.
    """
    try:
        rates = [_rate(value) for value in values]
    except ValueError:
        return None
    known = [rate for rate in rates if rate is not None]
    if not all(0.0 <= rate <= 100.0 for rate in known):
        return None
    largest = max(known, default=0.0)
    if largest <= 1.0:
        return rates
    return [None if rate is None else rate / 100 for rate in rates] if largest == 100.0 else None


def _rate(value: Any) -> float | None:
    """Return the number that a value holds, one with a percent sign divided by 100; raises `ValueError`."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(value)
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return float(value.rstrip().removesuffix("%")) / 100
    number = float(value)
    if number != number:
        return None
    return number
