"""The comparisons that matter most, drawn together from published results.

    python -m sage_dpo.report.headlines results/gate.json

writes, with differences in points and 95 % intervals over seeds, and SAGE's trained tokens divided by those of
DPO on all pairs:

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

HEADLINES: dict[str, tuple[str, str, str, str]] = {
    "present/fixed_tuned": ("gate-fixed", "tuned", "sage:best", "dpo_full:best"),
    "present/fixed_no_stop": ("gate-fixed", "no_stop", "sage_same_rate", "dpo_full"),
    "present/on_policy_tuned": ("gate-on-policy", "tuned", "sage:best", "dpo_full:best"),
    "harder/fixed_tuned": ("gate-hard-fixed", "tuned", "sage:best", "dpo_full:best"),
    "harder/on_policy_tuned": ("gate-hard-on-policy", "tuned", "sage:best", "dpo_full:best"),
}
"""Name -> study, its comparison, and the outcomes of SAGE and of DPO on all pairs whose tokens are compared."""

DIFFERENCES = ("sage_minus_dpo_full", "sage_minus_dpo_random")


def headlines(results: Path) -> dict[str, Any]:
    """Return the comparisons of `HEADLINES`.

    Args:
        results: folder of one `<study>.json` for each study.

    Raises:
        DataError: a study's results lack the comparison, or the studies have different seeds.
    """
    comparisons: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    seeds: list[int] = []
    for name, (study, comparison, *outcomes) in HEADLINES.items():
        result = read_json(results / f"{study}.json")
        if comparison not in result["comparisons"]:
            raise DataError(f"study {study!r} has no comparison {comparison!r}; it has {[*result['comparisons']]}")
        if seeds and result["seeds"] != seeds:
            raise DataError(f"study {study!r} has seeds {result['seeds']}, the others have {seeds}; run it with theirs")
        seeds = result["seeds"]
        found = result["comparisons"][comparison]
        comparisons[name] = {
            pair: {key: round(100 * found[pair][key], 3) for key in ("mean", "low", "high")} for pair in DIFFERENCES
        }
        sage, dpo = (np.mean(_trained_tokens(result, outcome)) for outcome in outcomes)
        ratios[name] = round(float(sage / dpo), 4)
    return {"seeds": seeds, "comparisons": comparisons, "token_ratio": ratios}


def _trained_tokens(result: dict[str, Any], label: str) -> list[float]:
    """Return the tokens that an outcome, as `sage:best`, was trained on, for each seed."""
    arm, _, step = label.partition(":")
    values = result["arms"][arm]
    if step == "best":
        values = values["best"]
    elif step:
        values = values["at_steps"][step]
    tokens: list[float] = values["train_tokens"]
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the comparisons that matter most together.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of <study>.json; default results")
    arguments = parser.parse_args()
    write_json(arguments.output, headlines(arguments.results))


if __name__ == "__main__":
    main()
