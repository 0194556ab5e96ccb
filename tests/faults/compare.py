"""Whether two run folders hold the same, bit for bit, but for what the clock says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

CLOCK_FIELDS = frozenset(
    {
        "seconds", "wall_s", "wall_breakdown", "total", "probing", "cost/seconds", "sage/refresh/seconds",
        "refresh/seconds", "train_runtime", "train_samples_per_second", "train_steps_per_second",
    }
)  # fmt: skip
"""Fields of JSON files that tell seconds."""

CLOCK_FILES = ("report/index.html", "report/table.md", "run.lock")
"""Files that show them, and the lock."""

CLOCK_HASHES = ("metrics.jsonl", "training_args.bin")
"""Files with seconds or the folder's name in them, whose hashes the manifest holds."""


def differences(first: Path, second: Path) -> list[str]:
    """Return the files that differ, or that only one of the folders has."""
    mine, other = contents(first), contents(second)
    names = [name for name in sorted({*mine, *other}) if mine.get(name) != other.get(name)]
    return [f"{name}{'' if name in mine and name in other else ' (in one only)'}" for name in names]


def contents(root: Path) -> dict[str, Any]:
    """Return what is compared of each file."""
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {name: _content(path, str(root)) for name, path in files.items() if name not in CLOCK_FILES}


def _content(path: Path, root: str) -> Any:
    if path.name in ("complete.json", "training_args.bin"):
        return True
    if path.suffix == ".parquet":
        return repr(pq.read_table(path, use_threads=False).to_pydict())  # NaN equals NaN
    if path.suffix == ".json":
        return _without_clock(json.loads(path.read_text().replace(root, "ROOT")))
    if path.suffix == ".jsonl":
        return [_without_clock(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path) as table:
            return {name: table[name].tobytes() for name in table}
    return path.read_bytes()


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        kept = (name for name in value if name not in CLOCK_FIELDS and not name.endswith(CLOCK_HASHES))
        return {name: _without_clock(value[name]) for name in kept}
    if isinstance(value, list):
        return [_without_clock(item) for item in value]
    return repr(value)
