"""Which checkpoints stay."""

from __future__ import annotations

import os
from pathlib import Path

from sage_dpo.selection.checkpoint import delete_older_checkpoints


def make(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}", encoding="utf-8")


def left(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


def test_the_newest_by_step_stay_whatever_the_clock_says(tmp_path):
    make(tmp_path, 2, 10, 9, 100)
    os.utime(tmp_path / "checkpoint-100", (0, 0))  # the clock was set back
    delete_older_checkpoints(tmp_path, step=100, keep=2)
    assert left(tmp_path) == [10, 100]
    delete_older_checkpoints(tmp_path, step=100, keep=1)
    assert left(tmp_path) == [100]


def test_the_best_one_and_those_of_an_earlier_longer_run_stay(tmp_path):
    make(tmp_path, 10, 20, 30, 500)
    delete_older_checkpoints(tmp_path, step=30, keep=1, best=str(tmp_path / "checkpoint-10"))
    assert left(tmp_path) == [10, 30, 500]
