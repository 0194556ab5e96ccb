"""Run folders -> outcomes: what each arm of each run could do, and what it had cost, at the end and on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.costs import Costs
from sage_dpo.errors import DataError
from sage_dpo.run_folder import FIRST_POOL, ArmFolder, RunFolder
from sage_dpo.storage import read_json, read_jsonl
from sage_dpo.studies.grid import StudyRun


@dataclass(frozen=True)
class ArmOutcome:
    """One arm of one run.

    Attributes:
        condition, seed, arm: which one; `arm` with the value swept, as `sage@0.5`.
        origin, value: the arm it stems from, and that value.
        average: mean of the suites' accuracies, a fraction; `None` if no suites were run.
        suites: accuracy by suite.
        costs: of making its policy.
        steps: optimizer steps taken.
        at_steps: average and costs by optimizer steps, for `evaluation.at_steps` and the last step; training that
            ended earlier by itself stays what it was then.
        best: the same at the best probe, with its `step`, `probe_accuracy` and `suites`; `None` without `at_best`.
        first_pool: what the pool that all arms share cost.
        metrics: rows of `metrics.jsonl`.
        folder: of the arm, in its run.
    """

    condition: str
    seed: int
    arm: str
    origin: str
    value: float | None
    average: float | None
    suites: dict[str, float]
    costs: Costs
    steps: int
    at_steps: dict[int, dict[str, Any]]
    best: dict[str, Any] | None
    first_pool: Costs
    metrics: list[dict[str, Any]] = field(repr=False)
    folder: ArmFolder

    def series(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (steps, values) of a logged metric."""
        rows = [(row["step"], row[key]) for row in self.metrics if key in row]
        table = np.array(rows, dtype=np.float64).reshape(-1, 2)
        return table[:, 0], table[:, 1]


def read_outcomes(runs: Sequence[StudyRun], root: Path) -> list[ArmOutcome]:
    """Read every arm of every complete run.

    Raises:
        RunFolderError: a folder holds a run of another recipe than the study now has.
        DataError: no run is complete.
    """
    complete = [run for run in runs if run.is_complete(root)]
    if not complete:
        raise DataError(f"no run of the study is complete in {root}; run `sage-dpo study` first")
    return [outcome for run in complete for outcome in _read_run(run, run.folder(root))]


def _read_run(run: StudyRun, folder: RunFolder) -> list[ArmOutcome]:
    arms = read_json(folder.summary)["arms"]
    first_pool = Costs.from_dict(folder.stages()[FIRST_POOL]["costs"])
    return [_read_arm(run, folder.arm(name), arms[name], first_pool) for name in run.arms]


def _read_arm(run: StudyRun, folder: ArmFolder, values: dict[str, Any], first_pool: Costs) -> ArmOutcome:
    origin, swept = run.arms[folder.name]
    return ArmOutcome(
        condition=run.condition.name,
        seed=run.seed,
        arm=folder.name,
        origin=origin,
        value=swept,
        average=values["average"],
        suites=values["suites"],
        costs=Costs.from_dict(values),
        steps=values["steps"],
        at_steps=_at_steps(run, folder.name, values),
        best=values.get("best"),
        first_pool=first_pool,
        metrics=read_jsonl(folder.metrics) if folder.metrics.is_file() else [],
        folder=folder,
    )


def _at_steps(run: StudyRun, arm: str, values: dict[str, Any]) -> dict[int, dict[str, Any]]:
    on_the_way = {int(step): row for step, row in values["at_steps"].items()}
    return {step: on_the_way[step] if step < values["steps"] else values for step in run.evaluated_steps(arm)}


def probe_curves(outcomes: Sequence[ArmOutcome]) -> tuple[list[int], NDArray[np.float64]]:
    """Return (steps, `[outcomes, steps]` probe accuracies), at every step that one of them was probed at.

    Without probes there are no steps. In between, and after training that ended by itself, an outcome has the accuracy
    of its last probe.
    """
    series = [outcome.series("probe/accuracy") for outcome in outcomes]
    if not all(own.size for own, _ in series):
        return [], np.empty((len(outcomes), 0))
    steps = np.unique(np.concatenate([own for own, _ in series]))
    rows = [accuracy[np.searchsorted(own, steps, side="right") - 1] for own, accuracy in series]
    return [int(step) for step in steps], np.array(rows)
