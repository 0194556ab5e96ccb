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
        at_steps: the same by optimizer steps, for `evaluation.at_steps` and the last step.
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
    at_steps: dict[int, dict[str, Any]]
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
    at_steps = {int(step): row for step, row in values.get("at_steps", {}).items()}
    if values["steps"]:
        at_steps[int(values["steps"])] = values
    return ArmOutcome(
        condition=run.condition.name,
        seed=run.seed,
        arm=folder.name,
        origin=origin,
        value=swept,
        average=values["average"],
        suites=values["suites"],
        costs=Costs.from_dict(values),
        at_steps=at_steps,
        first_pool=first_pool,
        metrics=read_jsonl(folder.metrics) if folder.metrics.is_file() else [],
        folder=folder,
    )
