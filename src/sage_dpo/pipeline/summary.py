"""`summary.json`: what each arm of a run could do and had cost, with intervals over problems and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from sage_dpo.config import RunConfig
from sage_dpo.core.statistics import bootstrap_interval, paired_difference_interval
from sage_dpo.costs import Costs
from sage_dpo.evaluation import EvaluationResult
from sage_dpo.run_folder import FIRST_POOL, ArmFolder, RunFolder, SuitesFolder
from sage_dpo.storage import read_json


def summarize(config: RunConfig, folder: RunFolder, results: Mapping[str, EvaluationResult]) -> dict[str, Any]:
    """Return the content of `summary.json`.

    Args:
        config: of the run.
        folder: all of whose stages are complete.
        results: of the suites at the end, by arm; empty if none were run.
    """
    stages = folder.stages()
    resamples = config.evaluation.bootstrap_resamples if config.evaluation else 0
    return {
        "name": config.name,
        "seed": config.seed,
        "arms": {name: _arm(config, folder.arm(name), stages, results.get(name)) for name in config.arms},
        "intervals": {name: _intervals(result, resamples) for name, result in results.items()},
        "comparisons": _comparisons(results, config.subject_arm, resamples),
    }


def _arm(
    config: RunConfig, folder: ArmFolder, stages: Mapping[str, dict[str, Any]], result: EvaluationResult | None
) -> dict[str, Any]:
    is_trained, training = config.arms[folder.name].train, config.for_arm(folder.name).training
    trained = stages[folder.stage] if is_trained else {}
    at_best = config.evaluation is not None and config.evaluation.at_best
    first_pool = Costs.from_dict(stages[FIRST_POOL]["costs"])
    costs = Costs.from_dict(trained["costs"]) + first_pool if is_trained else Costs()
    if result:
        costs += Costs(wall_breakdown={"evaluation": result.seconds})
    return {
        **_at_end(result),
        **costs.as_dict(),
        "learning_rate": training.learning_rate if is_trained else None,
        "steps": trained.get("steps", 0),
        "stop_reason": trained.get("stop_reason"),
        "refreshes": trained.get("refreshes", 0),
        "exclusions": trained.get("exclusions", {}),
        "at_steps": _milestones(folder, list(result.suites), first_pool) if result else {},
        "best": _best(folder, trained, result, first_pool) if result and trained and at_best else None,
    }


def _milestones(folder: ArmFolder, suites: Sequence[str], first_pool: Costs) -> dict[str, Any]:
    """What the arm could do, and had cost, after `evaluation.at_steps`."""
    rows = {}
    for step, milestone in folder.milestones().items():
        if milestone.costs.is_file():  # written last
            costs = Costs.from_dict(read_json(milestone.costs)) + first_pool
            rows[str(step)] = {**_stored(milestone, suites), **costs.as_dict()}
    return rows


def _best(folder: ArmFolder, trained: Mapping[str, Any], result: EvaluationResult, first_pool: Costs) -> dict[str, Any]:
    """What the arm could do, and had cost, at its best probe."""
    best = trained["best"]
    is_last = best["step"] == trained["steps"]
    return {
        "step": best["step"],
        "probe_accuracy": best["probe_accuracy"],
        **(_at_end(result) if is_last else _stored(folder.best, list(result.suites))),
        **(Costs.from_dict(best["costs"]) + first_pool).as_dict(),
    }


def _at_end(result: EvaluationResult | None) -> dict[str, Any]:
    if result is None:
        return {"average": None, "suites": {}}
    return {"average": result.average, "suites": {name: suite.accuracy for name, suite in result.suites.items()}}


def _stored(folder: SuitesFolder, suites: Sequence[str]) -> dict[str, Any]:
    accuracies = {name: read_json(folder.result(name))["accuracy"] for name in suites}
    return {"average": fmean(accuracies.values()), "suites": accuracies}


def _intervals(result: EvaluationResult, resamples: int) -> dict[str, Any]:
    values, groups = _by_problem(result)
    average = bootstrap_interval(values, seed=0, groups=groups, resamples=resamples)
    suites = {
        name: bootstrap_interval(suite.per_problem, seed=0, resamples=resamples)
        for name, suite in result.suites.items()
    }
    return {
        "average": [average.low, average.high],
        "suites": {name: [interval.low, interval.high] for name, interval in suites.items()},
    }


def _comparisons(results: Mapping[str, EvaluationResult], subject: str, resamples: int) -> dict[str, Any]:
    """Compare the subject with every other arm, paired by problem."""
    comparisons = {}
    for other in (name for name in results if name != subject):
        (treatment, groups), (baseline, _) = _by_problem(results[subject]), _by_problem(results[other])
        interval = paired_difference_interval(treatment, baseline, seed=0, groups=groups, resamples=resamples)
        bounds = {"mean": interval.estimate, "low": interval.low, "high": interval.high}
        comparisons[f"{subject}_minus_{other}"] = bounds
    return comparisons


def _by_problem(result: EvaluationResult) -> tuple[np.ndarray, Sequence[str]]:
    """Return each problem's avg@k over all suites, and the suite it belongs to."""
    values = np.concatenate([np.asarray(suite.per_problem, dtype=np.float64) for suite in result.suites.values()])
    groups = [name for name, suite in result.suites.items() for _ in suite.per_problem]
    return values, groups
