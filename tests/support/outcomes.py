"""Outcomes made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_dpo.studies.outcomes import COSTS, ArmOutcome


def outcome(
    arm: str,
    seed: int = 0,
    average: float | None = 0.5,
    *,
    condition: str = "base",
    value: float | None = None,
    at_steps: Mapping[int, float] | None = None,
    first_pool: Mapping[str, float] | None = None,
    metrics: Sequence[dict[str, Any]] = (),
    folder: Path = Path("unused"),
    **costs: float,
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
        costs={**dict.fromkeys(COSTS, 0.0), **costs},
        at_steps={step: {"average": accuracy} for step, accuracy in (at_steps or {}).items()},
        first_pool=dict(first_pool or {"seconds": 0.0, "flops": 0.0}),
        metrics=list(metrics),
        folder=folder,
    )
