"""What a run took, read from its folder: the other column beside a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sage_dpo.errors import DataError
from sage_dpo.planning.plan import CANDIDATES, POOL_PAIRS, REFRESH_COUNT, SHARED, TRAINED
from sage_dpo.planning.stages import EVALUATION, FIRST_POOL, REFERENCE, REFRESHES, SCORING, TRAINING, VERIFICATION
from sage_dpo.records import VerdictKind
from sage_dpo.storage import read_json


def read_measured(folder: str | Path) -> dict[str, dict[str, float]]:
    """Return what a run's parts took, by part (`plan.SHARED` or an arm) and stage name, in the units of `Stage.tokens`.

    Arms that have not been trained to their end are left out, so a run under way can be read as well.

    Raises:
        DataError: the folder holds no run.
    """
    root = Path(folder)
    if not (root / "manifest.json").is_file():
        raise DataError(f"{root} is not a run folder (no manifest.json); give the folder of a run")
    infos = {name: stage["info"] for name, stage in read_json(root / "manifest.json")["stages"].items()}
    parts: dict[str, dict[str, float]] = {}
    if "pool-000" in infos:
        pool = infos["pool-000"]
        answers = sum(pool.get("verdicts", {}).values())
        parts[SHARED] = {FIRST_POOL: pool["generated_tokens"], VERIFICATION: answers, POOL_PAIRS: pool["pairs"]}
    for path in sorted((root / "arms").glob("*")):
        trained = infos.get(f"arms/{path.name}/train")
        if trained is None and (path / "checkpoints").exists():
            continue
        measured = _measured_suites(path)
        if trained is not None:
            verdicts = [read_json(info)["verdicts"] for info in path.glob("refresh-*/info.json")]
            measured[VERIFICATION] += sum(sum(counts.values()) for counts in verdicts)
            measured |= {REFRESHES: trained["generated_tokens"], REFERENCE: trained["reference"]}
            measured |= {SCORING: trained["scored"], TRAINING: trained["trained"]}
            measured |= {CANDIDATES: trained["candidate_pairs"], TRAINED: trained["trained_pairs"]}
            measured[REFRESH_COUNT] = trained["refreshes"]
        parts[path.name] = measured
    return parts


def _measured_suites(arm: Path) -> dict[str, float]:
    paths = [*arm.glob("evaluation/*.json"), *arm.glob("at-*/*.json")]
    counts: list[Mapping[str, float]] = [read_json(path)["counts"] for path in paths if path.name != "costs.json"]
    return {
        EVALUATION: sum(count["generated_tokens"] for count in counts),
        VERIFICATION: sum(count[kind.value] for count in counts for kind in VerdictKind),
    }
