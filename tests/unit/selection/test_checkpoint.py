"""Which checkpoints stay, which are whole, and which one is resumed from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.errors import RunFolderError
from sage_dpo.selection.checkpoint import (
    checkpoint_to_resume,
    damage,
    delete_older_checkpoints,
    last_complete_checkpoint,
    mark_complete,
    mark_incomplete,
)

FILES = {"optimizer.pt": b"moments" * 9, "sage_reference.npz": b"logps" * 9, "model.safetensors": b"weights" * 9}


def make(folder: Path, *steps: int) -> None:
    for step in steps:
        path = folder / f"checkpoint-{step}"
        path.mkdir()
        for name, content in {**FILES, "sage_state.json": b"{}      " * 9}.items():
            (path / name).write_bytes(content + str(step).encode())
        mark_complete(path)


def left(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


def chosen(folder: Path) -> int | None:
    found = last_complete_checkpoint(folder)
    return None if found is None else int(found.name.removeprefix("checkpoint-"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


def overwrite(path: Path) -> None:
    path.write_bytes(b"?" * path.stat().st_size)


@pytest.mark.parametrize("name", [*FILES, "sage_state.json", "complete.json"])
@pytest.mark.parametrize("harm", [truncate, overwrite, Path.unlink])
def test_a_damaged_one_is_passed_over_with_a_word(tmp_path: Path, name: str, harm: Any, caplog: Any) -> None:
    make(tmp_path, 9, 10)
    harm(tmp_path / "checkpoint-10" / name)
    assert chosen(tmp_path) == 9
    assert name in caplog.text
    harm(tmp_path / "checkpoint-9" / name)
    assert chosen(tmp_path) is None


def test_the_newest_is_by_number_and_one_that_is_written_anew_does_not_count(tmp_path: Path) -> None:
    make(tmp_path, 9, 100, 10)
    assert chosen(tmp_path) == 100
    mark_incomplete(tmp_path / "checkpoint-100")
    assert chosen(tmp_path) == 10
    mark_complete(tmp_path / "checkpoint-100")
    assert chosen(tmp_path) == 100
    assert damage(tmp_path / "checkpoint-100") is None


def test_one_that_is_named_is_refused_where_it_is_damaged(tmp_path: Path) -> None:
    make(tmp_path, 1, 2)
    named = str(tmp_path / "checkpoint-2")
    assert checkpoint_to_resume(named, tmp_path) == checkpoint_to_resume(True, tmp_path) == named
    assert checkpoint_to_resume(None, tmp_path) is checkpoint_to_resume(False, tmp_path) is None
    truncate(Path(named, "optimizer.pt"))
    with pytest.raises(RunFolderError, match=r"optimizer.pt has 10 bytes, had 64; resume from another one"):
        checkpoint_to_resume(named, tmp_path)
    with pytest.raises(RunFolderError, match="no complete checkpoint"):
        checkpoint_to_resume(True, tmp_path / "elsewhere")


@pytest.mark.parametrize("survives", range(6))
def test_killed_while_deleting_leaves_the_newest_and_the_next_deletion_ends_it(
    tmp_path: Path, survives: int, monkeypatch: Any
) -> None:
    make(tmp_path, 1, 2)
    unlink, unlinked = os.unlink, []

    class Killed(BaseException):
        pass

    def fail(path: Any, *args: Any, **keywords: Any) -> None:
        if len(unlinked) == survives:
            raise Killed
        unlinked.append(path)
        unlink(path, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        try:
            delete_older_checkpoints(tmp_path, step=2, keep=1)
        except Killed:
            assert left(tmp_path) == [1, 2]
    assert chosen(tmp_path) == 2
    assert damage(tmp_path / "checkpoint-1") is not None or survives == 0
    make(tmp_path, 3)
    delete_older_checkpoints(tmp_path, step=3, keep=2)
    assert left(tmp_path) == ([1, 2, 3] if survives == 0 else [2, 3])[-2:]


def test_half_written_ones_do_not_count_among_those_that_stay(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3)
    mark_incomplete(tmp_path / "checkpoint-2")
    delete_older_checkpoints(tmp_path, step=3, keep=2)
    assert left(tmp_path) == [1, 3]


def test_the_newest_by_step_stay_whatever_the_clock_says(tmp_path: Path) -> None:
    make(tmp_path, 2, 10, 9, 100)
    os.utime(tmp_path / "checkpoint-100", (0, 0))  # the clock was set back
    delete_older_checkpoints(tmp_path, step=100, keep=2)
    assert left(tmp_path) == [10, 100]
    delete_older_checkpoints(tmp_path, step=100, keep=1)
    assert left(tmp_path) == [100]


def test_the_best_one_and_those_of_an_earlier_longer_run_stay(tmp_path: Path) -> None:
    make(tmp_path, 10, 20, 30, 500)
    delete_older_checkpoints(tmp_path, step=30, keep=1, best=str(tmp_path / "checkpoint-10"))
    assert left(tmp_path) == [10, 30, 500]
