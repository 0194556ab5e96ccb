"""Example pairs: what the selector kept with the highest utility, dropped with the lowest, and met at the cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sage_dpo.report.run import ArmRun, Columns, Refresh

MAX_TEXT = 2000
_SCORES = ("margin", "gradient_signal", "curvature", "informativeness", "utility")
_TEXTS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Example:
    """One scored pair with its texts; texts are `None` when the pair is not in the pairs file."""

    pair_id: str
    refresh: int
    step: int
    stratum: str
    is_kept: bool
    margin: float
    gradient_signal: float
    curvature: float
    informativeness: float
    utility: float
    success_rate: float | None
    prompt: str | None
    chosen: str | None
    rejected: str | None


@dataclass(frozen=True)
class ExampleGroup:
    title: str
    examples: list[Example]


def choose_examples(arm: ArmRun, *, count: int = 5) -> list[ExampleGroup]:
    """Return three groups of at most `count` examples of an arm, each problem at most once in a group.

    Kept with the highest utility; dropped with the lowest; and nearest the cut: least distance between a pair's utility
    and the middle between the last kept and the first dropped pair of its step (of its stratum, where the cut is made
    within strata). Ties go to the earlier step, then to the smaller pair id.
    """
    tables = [(refresh, refresh.scores) for refresh in arm.scored if refresh.scores is not None]
    if not tables:
        return []
    scores = {name: np.concatenate([table[name] for _, table in tables]) for name in tables[0][1]}
    origin = np.concatenate([np.full(len(table["step"]), index) for index, (_, table) in enumerate(tables)])
    kept, utility = scores["is_kept"].astype(bool), scores["utility"].astype(np.float64)
    within_strata = arm.config is None or arm.config.selection.cut == "stratum"
    distance = _distance_to_cut(scores, kept, utility, within_strata=within_strata)
    rankings = (
        ("Kept, highest utility", np.where(kept, -utility, np.inf)),
        ("Dropped, lowest utility", np.where(kept, np.inf, utility)),
        ("Nearest the cut", distance),
    )
    refreshes = [refresh for refresh, _ in tables]
    groups = [
        ExampleGroup(title, _examples(scores, _first_per_problem(scores, order, count), refreshes, origin))
        for title, order in rankings
    ]
    return [group for group in groups if group.examples]


def _distance_to_cut(
    scores: Columns, kept: NDArray[np.bool_], utility: NDArray[np.float64], *, within_strata: bool
) -> NDArray[np.float64]:
    """Return |S - cut| of each row, infinite where its step kept or dropped everything."""
    labels = np.char.add(scores["step"].astype(str), scores["stratum"].astype(str) if within_strata else "")
    _, group = np.unique(labels, return_inverse=True)
    size = int(group.max()) + 1 if group.size else 0
    lowest_kept, highest_dropped = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(lowest_kept, group[kept], utility[kept])
    np.maximum.at(highest_dropped, group[~kept], utility[~kept])
    has_both = np.isfinite(lowest_kept) & np.isfinite(highest_dropped)
    middle = np.full(size, np.inf)
    middle[has_both] = (lowest_kept[has_both] + highest_dropped[has_both]) / 2
    return np.abs(utility - middle[group])


def _first_per_problem(scores: Columns, order: NDArray[np.float64], count: int) -> list[int]:
    """Return the rows of the `count` smallest finite values, one row a problem."""
    rows: list[int] = []
    seen: set[str] = set()
    for row in np.lexsort((scores["pair_id"].astype(str), scores["step"], order)):
        if len(rows) == count or not np.isfinite(order[row]):
            break
        problem = str(scores["problem_id"][row] or scores["pair_id"][row])  # a data set may not name problems
        if problem not in seen:
            seen.add(problem)
            rows.append(int(row))
    return rows


def _examples(scores: Columns, rows: list[int], refreshes: list[Refresh], origin: NDArray[np.int64]) -> list[Example]:
    texts: dict[tuple[int, str], dict[str, Any]] = {}
    for index in sorted({int(origin[row]) for row in rows}):
        wanted = {str(scores["pair_id"][row]) for row in rows if origin[row] == index}
        for pair in read_pairs(refreshes[index].pairs_path, wanted):
            texts[index, str(pair["id"])] = pair
    examples = []
    for row in rows:
        pair_id = str(scores["pair_id"][row])
        pair = texts.get((int(origin[row]), pair_id), {})
        values: dict[str, Any] = {name: float(scores[name][row]) for name in _SCORES}
        values |= {name: _shorten(pair.get(name)) for name in _TEXTS}
        examples.append(
            Example(
                pair_id=pair_id,
                refresh=refreshes[int(origin[row])].version,
                step=int(scores["step"][row]),
                stratum=str(scores["stratum"][row]),
                is_kept=bool(scores["is_kept"][row]),
                success_rate=pair.get("success_rate"),
                **values,
            )
        )
    return examples


def read_pairs(path: Path, wanted: Iterable[str]) -> list[dict[str, Any]]:
    """Return id, success rate and texts of some pairs of a pool's file; nothing of one that cannot be read."""
    columns = ["id", "success_rate", *_TEXTS]
    try:
        table = pq.read_table(path, columns=columns, filters=[("id", "in", sorted(wanted))])
    except (pa.ArrowException, OSError):
        return []  # `read_run` has already said that this file is absent or damaged
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _shorten(text: str | None) -> str | None:
    if text is None or len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT:,} more characters)"
