"""What a SAGE checkpoint holds beyond TRL's: the state of the `CandidateStream`.

checkpoint-<step>/sage_state.json            pool cursors, counters, settings
checkpoint-<step>/sage_success_rates.npy     if the pool is stratified
checkpoint-<step>/sage_reference.npz         reference log-probabilities
checkpoint-<step>/sage_scores.npz            scores that may still be used again
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sage_dpo.errors import RunFolderError
from sage_dpo.storage import atomic_path, read_json, write_json

_STATE, _RATES = "sage_state.json", "sage_success_rates.npy"
_TABLES = {"reference": "sage_reference.npz", "scores": "sage_scores.npz"}


def save_state(folder: str | Path, state: Mapping[str, Any]) -> None:
    """Write the state of a stream, and JSON values added to it."""
    folder = Path(folder)
    for name, file in _TABLES.items():
        with atomic_path(folder / file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **state[name])
    if state["success_rates"] is not None:
        with atomic_path(folder / _RATES) as temporary, temporary.open("wb") as stream:
            np.save(stream, state["success_rates"])
    write_json(folder / _STATE, {k: v for k, v in state.items() if k not in (*_TABLES, "success_rates")})


def load_state(folder: str | Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        RunFolderError: the checkpoint was not written by SAGE.
    """
    folder = Path(folder)
    if not (folder / _STATE).is_file():
        raise RunFolderError(
            f"checkpoint {folder} has no {_STATE}, so it was not written by SAGETrainer with a full checkpoint; "
            "resume from one that was (save_only_model must be off), or start anew"
        )
    state: dict[str, Any] = read_json(folder / _STATE)
    absent = [file for file in _TABLES.values() if not (folder / file).is_file()]
    if absent or "exclusions" not in state:
        raise RunFolderError(
            f"checkpoint {folder} lacks {', '.join(absent) or 'the exclusions'}: it is damaged, or an earlier version "
            "of sage-dpo wrote it; resume from another one, or start anew"
        )
    state["success_rates"] = np.load(folder / _RATES) if (folder / _RATES).is_file() else None
    for name, file in _TABLES.items():
        with np.load(folder / file) as table:
            state[name] = dict(table)
    return state


def last_complete_checkpoint(folder: str | Path, *, also: Sequence[str] = ()) -> Path | None:
    """Return the newest checkpoint that was written to its end, or `None`.

    transformers writes `trainer_state.json` last and not atomically, so it must be there and be whole. Callbacks write
    after it: `also` names the files of theirs that must be there.
    """

    def is_complete(path: Path) -> bool:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return all((path / name).is_file() for name in (_STATE, *also))

    checkpoints = [path for path in Path(folder).glob("checkpoint-*") if is_complete(path)]
    return max(checkpoints, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def delete_older_checkpoints(folder: str | Path, *, step: int, keep: int, best: str | None = None) -> None:
    """Delete the checkpoints before the newest `keep` of those up to `step`, by step and not by the clock.

    A checkpoint of a later step, left by an earlier run, is neither counted nor deleted.

    Args:
        folder: of the checkpoints.
        step: of the newest one, which is complete.
        keep: how many stay, at least one.
        best: path of one that stays in any case.
    """
    steps = {int(path.name.removeprefix("checkpoint-")): path for path in Path(folder).glob("checkpoint-*[0-9]")}
    for old in sorted(at for at in steps if at <= step)[: -max(keep, 1)]:
        if best is None or Path(best).resolve() != steps[old].resolve():
            (steps[old] / "trainer_state.json").unlink(missing_ok=True)  # killed here, it is no complete one any more
            shutil.rmtree(steps[old], ignore_errors=True)
