"""Questions beyond accuracy, answered from the run folders: selection against known errors, time to quality, tuning."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sage_dpo.core.statistics import seed_interval
from sage_dpo.gym.arithmetic import Story
from sage_dpo.gym.misconceptions import (
    COUNTS_DISTRACTOR,
    COUNTS_DISTRACTOR_PREVALENCE,
    diagnose,
    misconception_at,
)
from sage_dpo.gym.world import story_of
from sage_dpo.records import PairScore, PreferencePair, Problem, Verdict
from sage_dpo.run_folder import ArmFolder, RunFolder
from sage_dpo.storage import read_records
from sage_dpo.studies.comparisons import as_dict
from sage_dpo.studies.outcomes import ArmOutcome, probe_curves

CONFIDENT, UNDECIDED, RARE, MISLABELLED = "confident", "undecided", "rare", "mislabelled"
CONFIDENT_FROM = 0.5
"""A misconception that the base policy was taught to follow more often than not is a confident error."""


def error_kind(story: Story, rejected: str) -> str:
    """Return what kind of error a wrong answer makes, from the gym's own record of contexts and prevalences.

    `confident`: its first wrong step follows a misconception that the base policy holds in this context with
    probability >= 1/2; `undecided`: one that it holds less often; `rare`: a slip or a structural error.
    """
    diagnosis = diagnose(story, rejected)
    if diagnosis is None or diagnosis.step >= len(story.steps):
        return RARE
    if diagnosis.cause == COUNTS_DISTRACTOR:
        return CONFIDENT if COUNTS_DISTRACTOR_PREVALENCE >= CONFIDENT_FROM else UNDECIDED
    step = story.steps[diagnosis.step]
    held = misconception_at(step, story.states()[diagnosis.step])
    if held is None or held.name != diagnosis.cause:
        return RARE
    return CONFIDENT if held.prevalence_of(step) >= CONFIDENT_FROM else UNDECIDED


def selection_quality(outcomes: Sequence[ArmOutcome]) -> dict[str, Any]:
    """Return, by arm and pool version, precision and recall of the kept pairs on confident errors.

    precision = confident errors among kept / kept;  recall = confident errors kept / confident errors drawn;
    `base_rate` = confident errors drawn / drawn, the precision of a selection that does not look. `mislabelled` is the
    share of wrong labels among the kept, `mislabelled_base` among those drawn. Means over seeds with intervals.
    """
    found: dict[str, dict[int, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for outcome in outcomes:
        stories = _stories(outcome.folder.run)
        for version in _scored(outcome.folder):
            for name, value in _quality_of_refresh(outcome.folder, version, stories).items():
                found[outcome.arm][version][name].append(value)
    return {
        arm: {
            str(version): {name: as_dict(seed_interval(values)) for name, values in rows.items()}
            for version, rows in sorted(versions.items())
        }
        for arm, versions in found.items()
    }


def _stories(run: RunFolder) -> dict[str, Story]:
    return {problem.id: story_of(problem) for problem in read_records(run.problems("train"), Problem)}


def _scored(arm: ArmFolder) -> list[int]:
    """The pool versions of which the arm has drawn candidates."""
    return [version for version, own in arm.refreshes().items() if own.scores.is_file()]


def _quality_of_refresh(arm: ArmFolder, version: int, stories: dict[str, Story]) -> dict[str, float]:
    pool = arm.pool(version)
    pairs = read_records(pool.pairs, PreferencePair)
    verdicts = {(v.problem_id, v.sample): v.is_correct for v in read_records(pool.verdicts, Verdict)}
    kinds = {
        pair.id: error_kind(stories[pair.problem_id], pair.rejected)
        if verdicts.get((pair.problem_id, pair.chosen_sample), True)
        else MISLABELLED
        for pair in pairs
    }
    scores = read_records(arm.refresh(version).scores, PairScore)
    kept = np.array([score.is_kept for score in scores])
    kind = np.array([kinds[score.pair_id] for score in scores])
    confident = kind == CONFIDENT
    values = {
        "precision": float(confident[kept].mean()),
        "base_rate": float(confident.mean()),
        "mislabelled": float((kind == MISLABELLED)[kept].mean()),
        "mislabelled_base": float((kind == MISLABELLED).mean()),
    }
    if confident.any():
        values["recall"] = float(kept[confident].mean())
    return values


def kept_by_cause(outcomes: Sequence[ArmOutcome]) -> dict[str, Any]:
    """Return, by arm and by cause of the rejected answer's first error, the share of the candidates that was kept.

    Causes are the gym's misconceptions, `slip` and `structure` (a step skipped, repeated or misread). Means over seeds.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        stories = _stories(outcome.folder.run)
        drawn: Counter[str] = Counter()
        kept: Counter[str] = Counter()
        for version in _scored(outcome.folder):
            pairs = read_records(outcome.folder.pool(version).pairs, PreferencePair)
            diagnoses = {pair.id: diagnose(stories[pair.problem_id], pair.rejected) for pair in pairs}
            for score in read_records(outcome.folder.refresh(version).scores, PairScore):
                diagnosis = diagnoses[score.pair_id]
                if diagnosis is not None:
                    drawn[diagnosis.cause] += 1
                    kept[diagnosis.cause] += score.is_kept
        for cause, count in drawn.items():
            found[outcome.arm][cause].append(kept[cause] / count)
    return {
        arm: {cause: as_dict(seed_interval(values)) for cause, values in sorted(causes.items())}
        for arm, causes in found.items()
    }


LEVELS = (0.8, 0.9)
"""Probe accuracies for which `time_to_quality` is told besides the reference arm's best."""


def time_to_quality(
    outcomes: Sequence[ArmOutcome], seeds: Sequence[int], *, reference: str, subject: str
) -> dict[str, Any]:
    """Return what each arm costs until it first reaches a probe accuracy, divided by what the reference arm costs.

    The accuracy is the reference arm's own best on each seed, or a fixed level. Cost is that at the first probe at or
    above it. Rollouts, scoring and training are in the cost, measuring is not.

    Returns:
        `{"reference", "subject", "wall_ratio", "flops_ratio", "targets", "arms", "levels"}`: the two ratios of the
        subject at the reference's best, which is `targets` by seed. `arms` and `levels[level]` have for every arm its
        `wall_ratio` and `flops_ratio` (geometric means over seeds, `None` unless every seed reached it), their 95 %
        `wall_interval` and `flops_interval`, and how many of the `seeds` have `reached` it.
    """
    by_seed = [{o.arm: o for o in outcomes if o.seed == seed and o.metrics} for seed in seeds]
    targets = [_best_probe(arms[reference]) for arms in by_seed]
    arms = _cost_ratios(by_seed, reference, targets)
    return {
        "reference": reference,
        "subject": subject,
        "wall_ratio": arms.get(subject, {}).get("wall_ratio"),
        "flops_ratio": arms.get(subject, {}).get("flops_ratio"),
        "targets": targets,
        "arms": arms,
        "levels": {f"{level:g}": _cost_ratios(by_seed, reference, [level] * len(by_seed)) for level in LEVELS},
    }


def _best_probe(outcome: ArmOutcome) -> float:
    steps, accuracies = outcome.series("probe/accuracy")
    return float(accuracies[steps > 0].max())


def _cost_ratios(
    by_seed: Sequence[Mapping[str, ArmOutcome]], reference: str, targets: Sequence[float]
) -> dict[str, dict[str, Any]]:
    rows = {}
    for name in (name for name in by_seed[0] if name != reference):
        row: dict[str, Any] = {"seeds": len(by_seed)}
        for cost, label in (("seconds", "wall"), ("flops", "flops")):
            ratios = []
            for arms, target in zip(by_seed, targets, strict=True):
                base, spent = cost_until(arms[reference], target, cost), cost_until(arms[name], target, cost)
                if base is not None and spent is not None:
                    ratios.append(spent / base)
            row["reached"] = len(ratios)
            interval = seed_interval(np.log(ratios)) if len(ratios) == len(by_seed) else None
            bounds = None if interval is None else (float(np.exp(interval.low)), float(np.exp(interval.high)))
            row[f"{label}_ratio"] = None if interval is None else float(np.exp(interval.estimate))
            row[f"{label}_interval"] = list(bounds) if bounds and np.isfinite(bounds[1]) else None
        rows[name] = row
    return rows


def cost_until(outcome: ArmOutcome, target: float, cost: str) -> float | None:
    """Return the cost (`seconds` or `flops`), first pool included, at the first probe at or above `target`."""
    steps, accuracies = outcome.series("probe/accuracy")
    cost_steps, costs = outcome.series(f"cost/{cost}")
    reached = steps[(accuracies >= target) & (steps > 0)]
    before = {"seconds": outcome.first_pool.wall_s, "flops": outcome.first_pool.flops}[cost]
    return float(costs[cost_steps == reached[0]][0] + before) if reached.size else None


def tuning(outcomes: Sequence[ArmOutcome]) -> dict[str, Any]:
    """Return each swept arm's probe accuracy by value and step, mean over seeds, and the best of the grid.

    Every probe is a candidate for stopping, so steps are tuned along the way of one constant-rate run. An arm whose
    training ended by itself keeps the accuracy of its last probe.
    """
    table: dict[str, Any] = {}
    for origin in dict.fromkeys(o.origin for o in outcomes if o.value is not None):
        rows = [o for o in outcomes if o.origin == origin]
        steps, accuracies = probe_curves(rows)
        grid: dict[str, dict[str, float]] = {}
        for value in sorted({o.value for o in rows if o.value is not None}):
            mean = accuracies[[o.value == value for o in rows]].mean(axis=0)
            grid[f"{value:g}"] = {str(step): float(a) for step, a in zip(steps, mean, strict=True) if step}
        cells = [(value, int(step), a) for value, row in grid.items() for step, a in row.items()]
        best = max(cells, key=lambda cell: cell[2])
        table[origin] = {
            "probe_accuracy": grid,
            "best": {"value": float(best[0]), "step": best[1], "probe_accuracy": best[2]},
            "best_at_step": {
                str(step): max(((float(v), a) for v, s, a in cells if s == step), key=lambda c: c[1])[0]
                for step in sorted({s for _, s, _ in cells})
            },
        }
    return table
