"""The numbers of a data set's pairs on disk, row by row: written in order, continued after an interruption.

    <output>.parts/made-with.json   what the numbers depend on: model, data, settings
    <output>.parts/scores.bin       one record a row (`RECORD`)

A row that was not finished has the state 0 or no record.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.errors import RunFolderError
from sage_dpo.rules import EXCLUSIONS
from sage_dpo.selectors import CandidateScores
from sage_dpo.storage import read_json, write_json

NUMBERS = (
    "chosen_logps",
    "rejected_logps",
    "chosen_lengths",
    "rejected_lengths",
    "chosen_informativeness",
    "rejected_informativeness",
)
"""Columns of `CandidateScores`, NaN where not computed; lengths are whole numbers below 2^53."""

RECORD = np.dtype([("state", "u1"), ("success_rate", "<f8"), *((name, "<f8") for name in NUMBERS)])
USABLE, _FIRST_REASON = 1, 2


def new_records(count: int) -> NDArray[Any]:
    """Return `[count]` records without numbers, in the state of a row that is not finished."""
    records = np.zeros(count, dtype=RECORD)
    for name in ("success_rate", *NUMBERS):
        records[name] = np.nan
    return records


def excluded_state(reason: str) -> int:
    """Return the state of a row that is left out for a reason of `rules.EXCLUSIONS`."""
    return _FIRST_REASON + EXCLUSIONS.index(reason)


def reason_of(state: int) -> str:
    """Return the reason behind a state of `excluded_state`."""
    return EXCLUSIONS[state - _FIRST_REASON]


class ScoreFile:
    """Records of a data set's rows, in a folder of their own. Without a usable row among them they are begun anew.

    Args:
        folder: there already.
        made_with: what the numbers depend on, by name; text, numbers and nothing else.

    Raises:
        RunFolderError: the folder's numbers were made with something else; names what.
        DataError: it is damaged.
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        self._path, self._description = folder / "scores.bin", folder / "made-with.json"
        if self._description.exists() and self._holds_usable_rows():
            self._compare(read_json(self._description), made_with)
        else:
            self._path.unlink(missing_ok=True)
            write_json(self._description, dict(made_with))

    def _holds_usable_rows(self) -> bool:
        return self._path.exists() and bool((self.read()["state"] == USABLE).any())

    def _compare(self, old: Any, new: Mapping[str, Any]) -> None:
        if not isinstance(old, dict):
            old = {}
        changed = [
            f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        ]
        if changed:
            raise RunFolderError(
                f"{self._path.parent} holds the scores of an interrupted selection made with something else: "
                f"{'; '.join(changed)}; give the old values, another --output, or --fresh to start anew"
            )

    @property
    def rows(self) -> int:
        """Finished rows."""
        if not self._path.exists():
            return 0
        records = self.read()
        unfinished = np.flatnonzero(records["state"] == 0)
        return int(unfinished[0]) if unfinished.size else len(records)

    def truncate(self, rows: int) -> None:
        """Forget all but the first so many rows."""
        if self._path.exists():
            os.truncate(self._path, rows * RECORD.itemsize)

    def append(self, records: NDArray[Any]) -> None:
        """Add the records of the next rows."""
        with self._path.open("ab") as file:
            file.write(records.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> NDArray[Any]:
        """Return `[N]` records that stay on disk until they are looked at."""
        whole = self._path.stat().st_size // RECORD.itemsize
        return np.memmap(self._path, dtype=RECORD, mode="r", shape=(whole,)) if whole else np.zeros(0, dtype=RECORD)


def candidate_scores(records: NDArray[Any]) -> CandidateScores:
    """Return the columns of usable records."""
    columns: dict[str, Any] = {name: np.ascontiguousarray(records[name]) for name in NUMBERS}
    for name in ("chosen_informativeness", "rejected_informativeness"):
        if np.isnan(columns[name]).all():
            columns[name] = None
    return CandidateScores(**columns)
