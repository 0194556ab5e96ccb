"""The comparisons that matter most, drawn together from published results.

    python -m sage_dpo.studies.headlines results/gate.json

writes, with differences in points and 95 % intervals over seeds, and SAGE's trained tokens divided by those of DPO on
all pairs:

    {"seeds": [...],
     "comparisons": {"present/fixed_tuned": {"sage_minus_dpo_full": {"mean", "low", "high"}, ...}, ...},
     "token_ratio": {"present/fixed_tuned": ..., ...}}
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from sage_dpo.errors import DataError
from sage_dpo.storage import read_json, write_json
from sage_dpo.studies.comparisons import difference
from sage_dpo.studies.config import BEST

SAGE, BASELINES = "sage", ("dpo_full", "dpo_random")

_TUNED = {SAGE: "sage:best", "dpo_full": "dpo_full:best", "dpo_random": "dpo_random:best"}
HEADLINES: dict[str, dict[str, str]] = {
    "present/fixed_tuned": {role: f"gate-fixed/{outcome}" for role, outcome in _TUNED.items()},
    "present/fixed_no_stop": {
        SAGE: "gate-fixed/sage_same_rate",
        "dpo_full": "gate-fixed/dpo_full",
        "dpo_random": "gate-fixed/dpo_random",
    },
    # On-policy the baselines are those of other studies: same seeds, problems and first pools.
    "present/on_policy_tuned": {
        SAGE: "gate-renewed/sage:best",
        "dpo_full": "main/dpo_full",
        "dpo_random": "main/dpo_random",
    },
    "harder/fixed_tuned": {role: f"gate-hard-fixed/{outcome}" for role, outcome in _TUNED.items()},
    "harder/on_policy_tuned": {
        SAGE: "gate-renewed-hard/sage:best",
        "dpo_full": "gate-hard-on-policy/dpo_full:best",
        "dpo_random": "gate-hard-on-policy/dpo_random:best",
    },
}
"""Name -> role -> `study/arm`, `study/arm:80` or `study/arm:best`."""


def headlines(results: Path) -> dict[str, Any]:
    """Return the comparisons of `HEADLINES`, paired by seed.

    Args:
        results: folder of one `<study>.json` for each study.

    Raises:
        DataError: a study's results lack an outcome, or the studies have different seeds.
    """
    comparisons: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    seeds: set[tuple[int, ...]] = set()
    for name, outcomes in HEADLINES.items():
        rows = {role: _read(results, outcome, seeds) for role, outcome in outcomes.items()}
        if len(seeds) > 1:
            raise DataError(f"{name!r} draws on studies of different seeds, {sorted(seeds)}; run them with the same")
        comparisons[name] = {f"{SAGE}_minus_{other}": _points(rows[SAGE], rows[other]) for other in BASELINES}
        sage, dpo = (np.mean(rows[role]["train_tokens"]) for role in (SAGE, BASELINES[0]))
        ratios[name] = round(float(sage / dpo), 4)
    return {"seeds": list(*seeds), "comparisons": comparisons, "token_ratio": ratios}


def _read(results: Path, label: str, seeds: set[tuple[int, ...]]) -> dict[str, Any]:
    """Return what an outcome's policy could do and had cost, lists over seeds; note the seeds."""
    study, _, outcome = label.partition("/")
    arm, _, step = outcome.partition(":")
    result = read_json(results / f"{study}.json")
    seeds.add(tuple(result["seeds"]))
    values: dict[str, Any] = result["arms"].get(arm, {})
    if step:
        values = values.get(BEST, {}) if step == BEST else values.get("at_steps", {}).get(step, {})
    if "average" not in values:
        raise DataError(f"results of study {study!r} have no {outcome!r}; they have the arms {[*result['arms']]}")
    return values


def _points(first: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    interval = difference(first["average"], other["average"])
    return {key: round(100 * interval[key], 3) for key in ("mean", "low", "high")}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the comparisons that matter most together.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of <study>.json; default results")
    arguments = parser.parse_args()
    write_json(arguments.output, headlines(arguments.results))


if __name__ == "__main__":
    main()
