"""What a run took is read from its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage_dpo.costs import Costs
from sage_dpo.errors import DataError
from sage_dpo.planning import read_measured
from sage_dpo.run_folder import FIRST_POOL


def make_run(folder: Path) -> Path:
    """A run folder of one complete arm, one under way, and one that is not trained."""
    stages = {
        FIRST_POOL: {"costs": {"generated_tokens": 1000}, "verdicts": {"correct": 3, "wrong": 5}, "pairs": 9},
        "arms/sage/train": {"costs": Costs(50, 70, 60, 40, candidate_pairs=8, kept_pairs=4).as_dict(), "refreshes": 1},
    }
    counts = {"correct": 1, "wrong": 1, "unparseable": 0, "timeout": 0, "error": 0, "generated_tokens": 30}
    files = {
        "manifest.json": {"stages": {name: {"seconds": 1.0, "info": info} for name, info in stages.items()}},
        "arms/sage/refresh-001/info.json": {"verdicts": {"correct": 10, "wrong": 1}},
        "arms/sage/evaluation/short.json": {"counts": counts},
        "arms/sage/at-000005/short.json": {"counts": counts},
        "arms/sage/at-000005/costs.json": {"train_tokens": 20},
        "arms/dpo_full/checkpoints/clock.json": {},
        "arms/vanilla/evaluation/short.json": {"counts": counts},
    }
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    return folder


def test_measured_tokens_are_read_from_the_run_folder(tmp_path: Path) -> None:
    measured = read_measured(make_run(tmp_path))
    assert measured["first pool"] == {"rollouts, first pool": 1000, "verification": 8, "pairs of a pool": 9}
    assert measured["sage"] == {
        "evaluation": 60, "verification": 2 * 2 + 11, "rollouts, refreshes": 40, "reference": 60, "scoring": 70,
        "training": 50, "candidate pairs": 8, "trained pairs": 4, "refreshes": 1,
    }  # fmt: skip
    assert measured["vanilla"] == {"evaluation": 30, "verification": 2}
    assert "dpo_full" not in measured


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        read_measured(tmp_path)


def test_a_run_of_an_earlier_version_is_refused_in_words(tmp_path: Path) -> None:
    manifest = make_run(tmp_path) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"costs"', '"tokens"'))
    with pytest.raises(DataError, match=r"of an earlier version.*run its recipe again"):
        read_measured(tmp_path)
