"""Outcomes -> means over seeds, and differences paired by seed, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sage_dpo.core.statistics import Interval, seed_interval
from sage_dpo.costs import COSTS
from sage_dpo.errors import ConfigError
from sage_dpo.studies.config import BEST, StudyConfig
from sage_dpo.studies.outcomes import ArmOutcome


def arm_values(outcomes: Sequence[ArmOutcome], seeds: Sequence[int]) -> dict[str, Any]:
    """Return one condition's arms: lists over `seeds` of average, suites and costs."""
    arms: dict[str, Any] = {}
    for name in dict.fromkeys(outcome.arm for outcome in outcomes):
        rows = [_find(outcomes, name, seed) for seed in seeds]
        arms[name] = {
            "average": [row.average for row in rows],
            "suites": {suite: [row.suites[suite] for row in rows] for suite in rows[0].suites},
            **{cost: [getattr(row.costs, cost) for row in rows] for cost in COSTS},
        }
    return arms


def best_values(outcomes: Sequence[ArmOutcome]) -> dict[str, Any]:
    """Return what an arm could do, and had cost, at its best probe: lists over its outcomes, one for each seed."""
    rows = [outcome.best for outcome in outcomes if outcome.best is not None]
    return {
        "suites": {suite: [row["suites"][suite] for row in rows] for suite in rows[0]["suites"]},
        **{key: [row[key] for row in rows] for key in ("step", "probe_accuracy", "average", *COSTS)},
    }


def compare(
    study: StudyConfig, outcomes: Sequence[ArmOutcome], seeds: Sequence[int], condition: str, subject: str
) -> dict[str, Any]:
    """Return `{comparison: {first_minus_other: {mean, low, high, values}}}` of one condition, in fractions.

    Args:
        study: names the comparisons.
        outcomes: of all conditions; a label may reach into another one.
        seeds: to pair by.
        condition: whose arms a label without condition means. Roles whose arm does not take part are left out.
        subject: the arm to compare with all others where the study names no comparisons.

    Raises:
        ConfigError: an outcome names a step that was not evaluated.
    """
    own = [outcome for outcome in outcomes if outcome.condition == condition]
    present = {f"{outcome.condition}/{outcome.arm}" for outcome in outcomes}
    result: dict[str, Any] = {}
    for name, roles in (study.comparisons or _default(own, subject)).items():
        full = {role: label if "/" in label else f"{condition}/{label}" for role, label in roles.items()}
        found = {role: label for role, label in full.items() if label.split(":")[0] in present}
        values = {role: accuracies(outcomes, label, seeds) for role, label in found.items()}
        first, *others = roles
        if first not in values:
            continue
        result[name] = {
            f"{first}_minus_{other}": difference(values[first], values[other]) for other in others if other in values
        }
    return result


def accuracies(outcomes: Sequence[ArmOutcome], label: str, seeds: Sequence[int]) -> list[float]:
    """Return the average accuracy of `condition/arm`, `condition/arm:step` or `condition/arm:best` for each seed.

    Raises:
        ConfigError: the arm was not evaluated then.
    """
    place, _, step = label.partition(":")
    condition, _, arm = place.partition("/")
    values = []
    for seed in seeds:
        row = _find([outcome for outcome in outcomes if outcome.condition == condition], arm, seed)
        value = _then(row, step, label)["average"] if step else row.average
        if value is None:
            raise ConfigError(f"outcome {label!r} has no accuracy: the recipe's evaluation is switched off")
        values.append(float(value))
    return values


def _then(outcome: ArmOutcome, step: str, label: str) -> Mapping[str, Any]:
    """Return what an arm could do at its best probe or after so many steps."""
    if step == BEST:
        if outcome.best is None:
            raise ConfigError(f"outcome {label!r} was not evaluated; switch on evaluation.at_best for a trained arm")
        return outcome.best
    if int(step) not in outcome.at_steps:
        raise ConfigError(
            f"outcome {label!r}: arm {outcome.arm!r} was evaluated at steps {sorted(outcome.at_steps)}; add {step} to "
            "evaluation.at_steps"
        )
    return outcome.at_steps[int(step)]


def difference(first: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """Return the paired difference: mean, bounds (null for a single seed), and one value per seed."""
    values = np.asarray(first) - np.asarray(other)
    return {**as_dict(seed_interval(values)), "values": [float(v) for v in values]}


def as_dict(interval: Interval) -> dict[str, float | None]:
    """Return an interval for JSON; an infinite bound is null."""
    low, high = (bound if np.isfinite(bound) else None for bound in (interval.low, interval.high))
    return {"mean": interval.estimate, "low": low, "high": high}


def _default(outcomes: Sequence[ArmOutcome], subject: str) -> Mapping[str, Mapping[str, str]]:
    """Compare the subject with all others, at the end of training; a sweep has no such arm."""
    names = list(dict.fromkeys(outcome.arm for outcome in outcomes if outcome.average is not None))
    if len(names) < 2 or any(outcome.value is not None for outcome in outcomes):
        return {}
    return {"final": {subject: subject, **{name: name for name in names if name != subject}}}


def _find(outcomes: Sequence[ArmOutcome], arm: str, seed: int) -> ArmOutcome:
    return next(outcome for outcome in outcomes if outcome.arm == arm and outcome.seed == seed)
