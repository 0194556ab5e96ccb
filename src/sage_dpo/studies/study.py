"""One study from file to results: run what is missing, read everything back, write JSON, table, plots and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_dpo.config import RunConfig, find_study, validate
from sage_dpo.core.statistics import seed_interval
from sage_dpo.costs import COSTS
from sage_dpo.errors import DataError
from sage_dpo.report.study import write_study_report
from sage_dpo.run_folder import StudyFolder
from sage_dpo.storage import read_json, write_json
from sage_dpo.studies.analyses import kept_by_cause, selection_quality, time_to_quality, tuning
from sage_dpo.studies.comparisons import arm_values, as_dict, best_values, compare
from sage_dpo.studies.config import ConditionSettings, StudyConfig, load_study
from sage_dpo.studies.drift import drift
from sage_dpo.studies.execute import execute
from sage_dpo.studies.gradient_noise import gradient_noise
from sage_dpo.studies.grid import StudyRun, expand
from sage_dpo.studies.outcomes import ArmOutcome, probe_curves, read_outcomes


def run_study(
    path: Path,
    *,
    output: Path | None = None,
    workers: int = 1,
    seeds: Sequence[int] | None = None,
    report_only: bool = False,
    progress: bool = True,
) -> Path:
    """Run a study, continuing an interrupted one, and write `results.json`, `table.md` and `index.html`.

    Args:
        path: the study file, or the name of a study that comes with the package.
        output: the study's folder; default `runs/studies/<name>`.
        workers: runs at a time.
        seeds: instead of the study's own.
        report_only: run nothing; tell what the complete seeds say.
        progress: show a progress bar.

    Returns:
        The study's folder.

    Raises:
        SageError: with the remedy in the message.
    """
    study = load_study(path)
    if seeds is not None:
        study = validate(
            StudyConfig, {**study.model_dump(exclude_unset=True), "seeds": list(seeds)}, where=f"study {study.name}"
        )
    root = output or Path("runs") / "studies" / study.name
    runs = expand(study, find_study(path).parent / study.recipe)
    if not report_only:
        execute(runs, root, workers=workers, progress=progress)
    return write_results(study, runs, root, source=path)


def write_results(study: StudyConfig, runs: Sequence[StudyRun], root: Path, *, source: Path) -> Path:
    """Write what the complete runs of a study say; seeds of which a run is missing are left out."""
    outcomes = read_outcomes(runs, root)
    done = {(o.condition, o.seed) for o in outcomes}
    seeds = [seed for seed in study.seeds if all((c.name, seed) in done for c in study.conditions)]
    if not seeds:
        raise DataError(f"no seed of study {study.name!r} is complete in {root}; run it again without --report-only")
    configs = {(run.condition.name, run.seed): run.config for run in runs}
    rows = [
        _condition(study, condition, {seed: configs[condition.name, seed] for seed in seeds}, outcomes)
        for condition in study.conditions
    ]
    first, *others = rows
    sweep = study.sweep
    result = {
        "study": study.name,
        "title": study.title,
        "command": f"sage-dpo study {source}",
        "versions": read_json(outcomes[0].folder.run.manifest)["versions"],
        "axis": sweep.label or sweep.key if sweep else study.axis,
        **first,
        "conditions": others,
    }
    write_json(StudyFolder(root).results, result)
    write_study_report(root)
    return root


def _condition(
    study: StudyConfig, condition: ConditionSettings, configs: Mapping[int, RunConfig], everything: Sequence[ArmOutcome]
) -> dict[str, Any]:
    """Return what one condition says; its comparisons may reach into the others, so all outcomes are given."""
    seeds = list(configs)
    outcomes = [o for o in everything if o.condition == condition.name and o.seed in configs]
    config = configs[seeds[0]]
    arms = arm_values(outcomes, seeds)
    for outcome in (o for o in outcomes if o.seed == seeds[0]):
        own = config.for_arm(outcome.arm)
        own_outcomes = [o for o in outcomes if o.arm == outcome.arm]
        arms[outcome.arm] |= {
            "origin": outcome.origin,
            "value": outcome.value,
            "learning_rate": own.training.learning_rate if config.arms[outcome.arm].train else None,
            "steps": max(outcome.at_steps, default=0),
            "at_steps": {
                str(step): {key: [o.at_steps[step][key] for o in own_outcomes] for key in ("average", *COSTS)}
                for step in outcome.at_steps
            },
            "probe": _curve(own_outcomes),
        }
        if any(o.steps != max(outcome.at_steps, default=0) for o in own_outcomes):
            arms[outcome.arm]["stopped"] = [o.steps for o in own_outcomes]
        if outcome.best is not None:
            arms[outcome.arm]["best"] = best_values(own_outcomes)
    result: dict[str, Any] = {
        "condition": condition.name,
        "x": condition.x,
        "policy": config.policy.path,
        "seeds": seeds,
        "arms": arms,
        "comparisons": compare(study, everything, seeds, condition.name, config.subject_arm),
    }
    if "time_to_quality" in study.analyses and study.reference:
        result["time_to_quality"] = time_to_quality(
            outcomes, seeds, reference=study.reference, subject=config.subject_arm
        )
    if "tuning" in study.analyses:
        result["tuning"] = tuning(outcomes)
    if "selection_quality" in study.analyses:
        result["selection_quality"] = selection_quality(outcomes)
        result["kept_by_cause"] = kept_by_cause(outcomes)
    if "drift" in study.analyses:
        result["drift"] = drift(outcomes, configs)
    if "gradient_noise" in study.analyses and study.reference:
        result["gradient_noise"] = gradient_noise(outcomes, configs, study.reference)
    return result


def _curve(outcomes: Sequence[ArmOutcome]) -> list[dict[str, float | None]]:
    """Probe accuracy by step, mean over seeds with its interval; empty if it was not measured."""
    steps, accuracies = probe_curves(outcomes)
    return [
        {"step": float(step), **as_dict(seed_interval(values))}
        for step, values in zip(steps, accuracies.T, strict=True)
    ]
