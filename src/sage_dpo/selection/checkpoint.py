"""What a SAGE checkpoint holds beyond TRL's: the state of the `CandidateStream`.

checkpoint-<step>/sage_state.json            pool cursors, counters, settings
checkpoint-<step>/sage_success_rates.npy     if the pool is stratified
checkpoint-<step>/sage_reference.npz         reference log-probabilities
checkpoint-<step>/sage_scores.npz            scores that may still be used again
checkpoint-<step>/complete.json              written last: size and hash of every file, those of callbacks included

A checkpoint without `complete.json` was not written to its end; one whose files are others than it says is damaged.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sage_dpo.digests import changed_files, digest_files
from sage_dpo.errors import DataError, RunFolderError
from sage_dpo.storage import atomic_path, read_json, write_json

logger = logging.getLogger(__name__)

_STATE, _RATES = "sage_state.json", "sage_success_rates.npy"
_COMPLETE = "complete.json"
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


def mark_incomplete(checkpoint: str | Path) -> None:
    """Take the mark away from a checkpoint that is about to be written anew."""
    (Path(checkpoint) / _COMPLETE).unlink(missing_ok=True)


def mark_complete(checkpoint: str | Path) -> None:
    """Say that a checkpoint has been written to its end, and what its files hold."""
    checkpoint = Path(checkpoint)
    mark_incomplete(checkpoint)
    write_json(checkpoint / _COMPLETE, {"files": digest_files(checkpoint, [checkpoint])})


def damage(checkpoint: str | Path) -> str | None:
    """Return why a checkpoint cannot be resumed from, or `None`."""
    checkpoint = Path(checkpoint)
    if not (checkpoint / _COMPLETE).is_file():
        return f"it was not written to its end (no {_COMPLETE})"
    try:
        changed = changed_files(checkpoint, read_json(checkpoint / _COMPLETE)["files"])
    except (DataError, KeyError, TypeError, AttributeError):
        return f"{_COMPLETE} is damaged"
    return "; ".join(f"{name} {what}" for name, what in changed.items()) or None


def last_complete_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest checkpoint that was written to its end and is not damaged, or `None`; others are warned of."""
    steps = _by_step(folder)
    for step in sorted(steps, reverse=True):
        reason = damage(steps[step])
        if reason is None and (steps[step] / _STATE).is_file():
            return steps[step]
        logger.warning(f"{steps[step]} is passed over: {reason or f'it has no {_STATE}'}")
    return None


def checkpoint_to_resume(asked: str | bool | None, folder: str | Path) -> str | None:
    """Return the checkpoint that training goes on from, `None` for a new start.

    Args:
        asked: a path, or `True` for the newest usable one of `folder`.
        folder: of the checkpoints.

    Raises:
        RunFolderError: there is none, or the one that is named is damaged.
    """
    if asked is True:
        found = last_complete_checkpoint(folder)
        if found is None:
            raise RunFolderError(f"no complete checkpoint in {folder}; train without resuming")
        return str(found)
    if not asked:
        return None
    reason = damage(asked) if (Path(asked) / _STATE).is_file() else None  # without: `load_state` says what is wrong
    if reason is not None:
        raise RunFolderError(
            f"checkpoint {asked} cannot be resumed from: {reason}; resume from another one (True takes the newest that "
            "is whole), or start anew"
        )
    return asked


def _by_step(folder: str | Path) -> dict[int, Path]:
    return {int(path.name.removeprefix("checkpoint-")): path for path in Path(folder).glob("checkpoint-*[0-9]")}


def delete_older_checkpoints(folder: str | Path, *, step: int, keep: int, best: str | None = None) -> None:
    """Delete the checkpoints before the newest `keep` complete ones up to `step`, by step and not by the clock.

    What was left half-written or half-deleted before them goes, too. A checkpoint of a later step, left by an earlier
    run, is neither counted nor deleted.

    Args:
        folder: of the checkpoints.
        step: of the newest one, which is complete.
        keep: how many stay, at least one.
        best: path of one that stays in any case.
    """
    steps = _by_step(folder)
    done = sorted(at for at in steps if at <= step and (steps[at] / _COMPLETE).is_file())
    kept = set(done[-max(keep, 1) :])
    for old in (at for at in sorted(steps) if at <= step and at not in kept):
        if best is None or Path(best).resolve() != steps[old].resolve():
            mark_incomplete(steps[old])  # killed from here on, it is none to resume from
            shutil.rmtree(steps[old], ignore_errors=True)
