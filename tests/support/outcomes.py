"""Outcomes made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_dpo.costs import Costs
from sage_dpo.run_folder import ArmFolder, RunFolder
from sage_dpo.studies.outcomes import ArmOutcome

NO_COSTS, NO_FOLDER = Costs(), RunFolder(Path("unused")).arm("unused")


def outcome(
    arm: str,
    seed: int = 0,
    average: float | None = 0.5,
    *,
    condition: str = "base",
    value: float | None = None,
    steps: int = 0,
    at_steps: Mapping[int, float] | None = None,
    best: Mapping[str, Any] | None = None,
    first_pool: Costs = NO_COSTS,
    metrics: Sequence[dict[str, Any]] = (),
    folder: ArmFolder = NO_FOLDER,
    **costs: Any,
) -> ArmOutcome:
    """One arm of one run; `sage@0.5` stems from `sage`."""
    return ArmOutcome(
        condition=condition,
        seed=seed,
        arm=arm,
        origin=arm.split("@")[0],
        value=value,
        average=average,
        suites={} if average is None else {"short": average},
        costs=Costs(**costs),
        steps=steps,
        at_steps={step: {"average": accuracy} for step, accuracy in (at_steps or {}).items()},
        best=None if best is None else dict(best),
        first_pool=first_pool,
        metrics=list(metrics),
        folder=folder,
    )
