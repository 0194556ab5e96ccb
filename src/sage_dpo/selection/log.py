"""What is told of a selection: numbers for the tracker, and a record of every candidate that survives interruptions.

Records are buffered and written as one Parquet part per flush, named by the steps it holds:
`candidates/steps-000000-000029.parquet`. After a resume at step r the parts from r on are removed and made again.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from sage_dpo.core.strata import STRATA
from sage_dpo.records import PairScore
from sage_dpo.selection.pool import Draw
from sage_dpo.selection.scoring import Columns, TokenCounts, pair_id
from sage_dpo.selectors import Selection
from sage_dpo.storage import read_records, write_records

_NUMBERS = ("margin", "gradient_signal", "curvature", "informativeness", "utility")
_PART = re.compile(r"steps-(\d+)-(\d+)\.parquet")


class CandidateLog:
    """Collects `PairScore` records and writes them in parts.

    Args:
        folder: where the parts go; `None` collects nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = Path(folder) if folder is not None else None
        self._rows: list[PairScore] = []

    @property
    def is_on(self) -> bool:
        return self._folder is not None

    def add(self, rows: list[PairScore]) -> None:
        self._rows.extend(rows)

    def flush(self) -> None:
        """Write the buffered rows, if any."""
        if self._folder is None or not self._rows:
            return
        name = f"steps-{self._rows[0].step:06d}-{self._rows[-1].step:06d}.parquet"
        write_records(self._folder / name, self._rows, PairScore)
        self._rows = []

    def rewind(self, step: int) -> None:
        """Forget everything logged for `step` and later."""
        self._rows = []
        for path, first, last in _parts(self._folder):
            if first >= step:
                path.unlink(missing_ok=True)
            elif last >= step:
                write_records(path, [row for row in read_records(path, PairScore) if row.step < step], PairScore)
                path.rename(path.with_name(f"steps-{first:06d}-{step - 1:06d}.parquet"))


def read_candidates(folder: str | Path) -> list[PairScore]:
    """Return all logged candidates of a run, in step order."""
    return [row for path, _, _ in _parts(Path(folder)) for row in read_records(path, PairScore)]


def candidate_records(
    columns: Columns, draw: Draw, selection: Selection, *, step: int, pool_version: int
) -> list[PairScore]:
    """Return one record per candidate; its numbers are NaN if the selector computed no scores."""
    numbers = {name: getattr(selection.ranking, name) for name in _NUMBERS}
    is_kept = selection.mask
    is_open = np.ones(len(is_kept), dtype=bool) if selection.is_open is None else selection.is_open
    return [
        PairScore(
            step=step,
            pair_id=pair_id(columns, row, int(index)),
            problem_id=str(columns["problem_id"][row]) if "problem_id" in columns else "",
            stratum="" if draw.strata is None else str(STRATA[draw.strata[row]]),
            is_kept=bool(is_kept[row]),
            is_open=bool(is_open[row]),
            pool_version=pool_version,
            **{name: math.nan if column is None else float(column[row]) for name, column in numbers.items()},
        )
        for row, index in enumerate(draw.indices)
    ]


def selection_metrics(draw: Draw, selection: Selection, counts: TokenCounts) -> dict[str, float]:
    """Return what one step logs: kept fraction, strata, costs so far, each number's mean over kept and over dropped."""
    is_kept = selection.mask
    metrics: dict[str, float] = {
        "kept_fraction": float(is_kept.mean()),
        "tokens_scored": counts.scored,
        "tokens_trained": counts.trained,
    }
    if draw.strata is not None:
        for code, stratum in enumerate(STRATA):
            metrics[f"strata/{stratum}"] = float((draw.strata == code).mean())
    if selection.is_open is not None:
        metrics["gate/open"] = float(selection.is_open.mean())
        for code in () if draw.strata is None else np.unique(draw.strata):
            metrics[f"gate/open/{STRATA[code]}"] = float(selection.is_open[draw.strata == code].mean())
    for name in _NUMBERS:
        column = getattr(selection.ranking, name)
        if column is not None:
            if is_kept.any():
                metrics[f"{name}_kept"] = float(column[is_kept].mean())
            if not is_kept.all():
                metrics[f"{name}_dropped"] = float(column[~is_kept].mean())
    return metrics


def _parts(folder: Path | None) -> list[tuple[Path, int, int]]:
    if folder is None or not folder.is_dir():
        return []
    matches = [(path, _PART.fullmatch(path.name)) for path in folder.iterdir()]
    return sorted((path, int(m[1]), int(m[2])) for path, m in matches if m)
