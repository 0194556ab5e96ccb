"""`summary.json` as typed values, and how its numbers are printed. Accuracies are fractions inside, percent outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_dpo.costs import COSTS
from sage_dpo.errors import DataError

Bounds = tuple[float, float]
ABSENT = "–"


@dataclass(frozen=True)
class ArmResult:
    """One arm's outcome; a value the run did not record is `None`.

    Attributes:
        average: mean of the suites' accuracies, fraction.
        best_average: the same at the best probe, where the suites were run on that policy.
        suites: accuracy by suite, fractions.
        average_interval, suite_intervals: 95 % bootstrap intervals, fractions.
        wall_breakdown: seconds by stage.
        costs: those of `COSTS` that were recorded, and `steps`, `refreshes`, `learning_rate`.
        exclusions: what training left out, by reason.
        stop_reason: why training ended by itself before its last step; empty if it did not.
    """

    average: float | None
    suites: dict[str, float]
    average_interval: Bounds | None
    suite_intervals: dict[str, Bounds]
    wall_breakdown: dict[str, float]
    costs: dict[str, float]
    exclusions: dict[str, int]
    stop_reason: str = ""
    best_average: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A paired difference between two arms' averages, fractions, with its 95 % interval."""

    name: str
    mean: float
    interval: Bounds | None

    @property
    def label(self) -> str:
        """`sage_minus_dpo_full` reads as `sage − dpo_full`."""
        return self.name.replace("_minus_", " − ")

    @property
    def verdict(self) -> str:
        """What the interval allows one to say; an interval that touches zero shows no difference."""
        if self.interval is None:
            return "no interval recorded"
        low, high = self.interval
        if low <= 0.0 <= high:
            return "not distinguishable: the interval includes 0"
        return "higher: the interval is above 0" if low > 0 else "lower: the interval is below 0"


@dataclass(frozen=True)
class Summary:
    """The whole `summary.json`."""

    name: str
    seed: int | None
    arms: dict[str, ArmResult]
    comparisons: tuple[Comparison, ...] = field(default=())

    @property
    def suites(self) -> list[str]:
        """Suites of any arm, in the order first met."""
        return list(dict.fromkeys(suite for arm in self.arms.values() for suite in arm.suites))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Summary:
        """Read the mapping of `summary.json`; absent parts become empty, so that an old summary still prints.

        Raises:
            DataError: not a mapping, or `arms` is not a mapping of mappings.
        """
        arms = values.get("arms", {}) if isinstance(values, Mapping) else None
        if not isinstance(arms, Mapping) or not all(isinstance(arm, Mapping) for arm in arms.values()):
            raise DataError("summary has no mapping of arms to results under 'arms'; run the evaluation again")
        intervals = values.get("intervals") or {}
        comparisons = values.get("comparisons") or {}
        return cls(
            name=str(values.get("name", "run")),
            seed=values.get("seed"),
            arms={name: _arm(arm, intervals.get(name) or {}) for name, arm in arms.items()},
            comparisons=tuple(
                Comparison(name, float(entry["mean"]), _interval([entry.get("low"), entry.get("high")]))
                for name, entry in comparisons.items()
                if number(entry.get("mean")) is not None
            ),
        )


def _arm(values: Mapping[str, Any], intervals: Mapping[str, Any]) -> ArmResult:
    suite_intervals = {name: _interval(bounds) for name, bounds in (intervals.get("suites") or {}).items()}
    return ArmResult(
        average=number(values.get("average")),
        suites=_numbers(values.get("suites")),
        average_interval=_interval(intervals.get("average")),
        suite_intervals={name: bounds for name, bounds in suite_intervals.items() if bounds is not None},
        wall_breakdown=_numbers(values.get("wall_breakdown")),
        costs=_numbers({name: values.get(name) for name in (*COSTS, "steps", "refreshes", "learning_rate")}),
        exclusions={name: round(number) for name, number in _numbers(values.get("exclusions")).items()},
        stop_reason=str(values.get("stop_reason") or ""),
        best_average=number((values.get("best") or {}).get("average")),
    )


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    numbers = {name: number(value) for name, value in (values or {}).items()}
    return {name: number for name, number in numbers.items() if number is not None}


def number(value: Any) -> float | None:
    """Return a finite number as such; anything else that may stand in a file is `None`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _interval(bounds: Any) -> Bounds | None:
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return None
    low, high = number(bounds[0]), number(bounds[1])
    return None if low is None or high is None else (low, high)


def percent(value: float | None) -> str:
    """A fraction as percent with one digit: 0.473 -> `47.3`."""
    return ABSENT if value is None else f"{100 * value:.1f}"


def percent_interval(interval: Bounds | None) -> str:
    """`47.3 to 51.0`; the word keeps negative bounds readable."""
    return ABSENT if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def points(value: float) -> str:
    """A difference of fractions in percentage points, always with its sign: 0.046 -> `+4.6`, -0.02 -> `−2.0`."""
    return f"{100 * value:+.1f}".replace("-", "−")


def points_interval(interval: Bounds | None) -> str:
    return ABSENT if interval is None else f"{points(interval[0])} to {points(interval[1])}"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return ABSENT if value is None else f"{round(value):,}"


def duration(seconds: float | None) -> str:
    """Seconds up to two minutes, minutes up to three hours, then hours."""
    if seconds is None:
        return ABSENT
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"
