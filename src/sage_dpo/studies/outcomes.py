"""Run folders -> outcomes: what each arm of each run could do, and what it had cost, at the end and on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.errors import DataError
from sage_dpo.storage import read_json, read_jsonl
from sage_dpo.studies.grid import StudyRun

COSTS = ("train_tokens", "scored_tokens", "reference_tokens", "generated_tokens", "wall_s", "flops")


@dataclass(frozen=True)
class ArmOutcome:
    """One arm of one run.

    Attributes:
        condition, seed, arm: which one; `arm` with the value swept, as `sage@0.5`.
        origin, value: the arm it stems from, and that value.
        average: mean of the suites' accuracies, a fraction; `None` if no suites were run.
        suites: accuracy by suite.
        costs: see `COSTS`.
        at_steps: the same by optimizer steps, for `evaluation.at_steps` and the last step.
        first_pool: what the pool that all arms share cost: `seconds` and `flops`.
        metrics: rows of `metrics.jsonl`.
        folder: of the arm.
    """

    condition: str
    seed: int
    arm: str
    origin: str
    value: float | None
    average: float | None
    suites: dict[str, float]
    costs: dict[str, float]
    at_steps: dict[int, dict[str, Any]]
    first_pool: dict[str, float]
    metrics: list[dict[str, Any]] = field(repr=False)
    folder: Path

    def series(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (steps, values) of a logged metric."""
        rows = [(row["step"], row[key]) for row in self.metrics if key in row]
        table = np.array(rows, dtype=np.float64).reshape(-1, 2)
        return table[:, 0], table[:, 1]


def read_outcomes(runs: Sequence[StudyRun], root: Path) -> list[ArmOutcome]:
    """Read every arm of every complete run.

    Raises:
        DataError: no run is complete.
    """
    complete = [run for run in runs if (root / run.id / "summary.json").is_file()]
    if not complete:
        raise DataError(f"no run of the study is complete in {root}; run `sage-dpo study` first")
    return [outcome for run in complete for outcome in _read_run(run, root / run.id)]


def _read_run(run: StudyRun, folder: Path) -> list[ArmOutcome]:
    arms = read_json(folder / "summary.json")["arms"]
    pool = read_json(folder / "manifest.json")["stages"]["pool-000"]["info"]
    first_pool = {"seconds": float(pool["seconds"]["first pool"]), "flops": float(pool.get("flops", 0.0))}
    return [_read_arm(run, name, arms[name], first_pool, folder / "arms" / name) for name in run.arms]


def _read_arm(
    run: StudyRun, name: str, values: dict[str, Any], first_pool: dict[str, float], folder: Path
) -> ArmOutcome:
    origin, swept = run.arms[name]
    metrics = folder / "metrics.jsonl"
    at_steps = {int(step): row for step, row in values.get("at_steps", {}).items()}
    if values["steps"]:
        at_steps[int(values["steps"])] = values
    return ArmOutcome(
        condition=run.condition.name,
        seed=run.seed,
        arm=name,
        origin=origin,
        value=swept,
        average=values["average"],
        suites=values["suites"],
        costs={cost: float(values[cost]) for cost in COSTS},
        at_steps=at_steps,
        first_pool=first_pool,
        metrics=read_jsonl(metrics) if metrics.is_file() else [],
        folder=folder,
    )
