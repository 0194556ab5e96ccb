"""What a run took, read from its folder: the other column beside a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_dpo.costs import Costs
from sage_dpo.errors import DataError
from sage_dpo.planning.plan import CANDIDATES, POOL_PAIRS, REFRESH_COUNT, SHARED, TRAINED
from sage_dpo.planning.stages import (
    EVALUATION,
    FIRST_ROLLOUTS,
    REFERENCE,
    REFRESH_ROLLOUTS,
    SCORING,
    TRAINING,
    VERIFICATION,
)
from sage_dpo.records import VerdictKind
from sage_dpo.run_folder import FIRST_POOL, ArmFolder, RunFolder
from sage_dpo.storage import read_json


def read_measured(folder: str | Path) -> dict[str, dict[str, float]]:
    """Return what a run's parts took, by part (`plan.SHARED` or an arm) and stage name, in the units of `Stage.tokens`.

    Arms that have not been trained to their end are left out, so a run under way can be read as well.

    Raises:
        DataError: the folder holds no run, or one of an earlier version.
    """
    run = RunFolder(Path(folder))
    if not run.manifest.is_file():
        raise DataError(f"{run.root} is not a run folder (no manifest.json); give the folder of a run")
    stages = run.stages()
    parts: dict[str, dict[str, float]] = {}
    if FIRST_POOL in stages:
        pool = stages[FIRST_POOL]
        answers = sum(pool.get("verdicts", {}).values())
        sampled = _costs(pool, run).generated_tokens
        parts[SHARED] = {FIRST_ROLLOUTS: sampled, VERIFICATION: answers, POOL_PAIRS: pool["pairs"]}
    for name, arm in run.arms().items():
        trained = stages.get(arm.stage)
        if trained is None and arm.checkpoints.exists():
            continue
        measured = _measured_suites(arm)
        if trained is not None:
            infos = [pool.info for pool in arm.refreshes().values() if pool.info.is_file()]
            measured[VERIFICATION] += sum(sum(read_json(info)["verdicts"].values()) for info in infos)
            costs = _costs(trained, run)
            measured |= {REFRESH_ROLLOUTS: costs.generated_tokens, REFERENCE: costs.reference_tokens}
            measured |= {SCORING: costs.scored_tokens, TRAINING: costs.train_tokens}
            measured |= {CANDIDATES: costs.candidate_pairs, TRAINED: costs.kept_pairs}
            measured[REFRESH_COUNT] = trained["refreshes"]
        parts[name] = measured
    return parts


def _costs(stage: Mapping[str, Any], run: RunFolder) -> Costs:
    if "costs" not in stage:
        raise DataError(
            f"{run.root} holds a run of an earlier version, without a record of costs; run its recipe again"
        )
    return Costs.from_dict(stage["costs"])


def _measured_suites(arm: ArmFolder) -> dict[str, float]:
    folders = [arm.evaluation, arm.best, *arm.milestones().values()]
    counts: list[Mapping[str, float]] = [read_json(path)["counts"] for folder in folders for path in folder.results()]
    return {
        EVALUATION: sum(count["generated_tokens"] for count in counts),
        VERIFICATION: sum(count[kind.value] for count in counts for kind in VerdictKind),
    }
