"""The candidate log: every candidate's numbers at every step, as Parquet that survives an interruption.

Rows are buffered and written as one part per flush, named by the steps it holds:
`candidates/steps-000000-000029.parquet`. After a resume at step r the parts from r on are deleted and made again.
"""

from __future__ import annotations

import re
from pathlib import Path

from sage_dpo.records import PairScore
from sage_dpo.storage import read_records, write_records

_PART = re.compile(r"steps-(\d+)-(\d+)\.parquet")


class CandidateLog:
    """Collects `PairScore` records and writes them in parts.

    Args:
        folder: where the parts go; `None` collects nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = Path(folder) if folder is not None else None
        self._rows: list[PairScore] = []

    def add(self, rows: list[PairScore]) -> None:
        if self._folder is not None:
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


def _parts(folder: Path | None) -> list[tuple[Path, int, int]]:
    if folder is None or not folder.is_dir():
        return []
    matches = [(path, _PART.fullmatch(path.name)) for path in folder.iterdir()]
    return sorted((path, int(m[1]), int(m[2])) for path, m in matches if m)
