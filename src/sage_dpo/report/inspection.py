"""Reading what was decided about pairs: from a run, a trainer's folder, or a file of scores, selected rows or pairs.

Everything becomes `Decisions`: columns, one row for each time a pair was a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sage_dpo.config import RunConfig, load_config
from sage_dpo.data.blocks import BlockSource
from sage_dpo.data.rows import first_line
from sage_dpo.data.score_columns import BELOW, DECISIONS, KEPT, NUMBERS, PREFIX, SCORES, SHUT
from sage_dpo.errors import ConfigError, DataError
from sage_dpo.report.examples import read_pairs
from sage_dpo.run_folder import ArmFolder, RunFolder

_LOGGED = ("step", "pair_id", "stratum", *NUMBERS, "is_kept", "pool_version")
_BLOCK_ROWS = 4096

NOT_DRAWN = "not drawn"
"""Why a candidate was not kept where nothing was ranked."""

Texts = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Decisions:
    """What was decided, M times.

    Attributes:
        name: of the arm, the folder or the file.
        pair_id, stratum, reason: `[M]` texts; an empty stratum where there is none.
        step, pool_version: `[M]`; `None` of a data set that was selected from once.
        numbers: `records.PairScore`'s, `[M]` each, NaN where nothing was scored.
        rank: `[M]` place among the open candidates that were compared, from 1; 0 where there is none.
        group: `[M]` which candidates were compared with each other.
        has_scores: whether the source says anything about selection.
        texts: finds a pair's texts by its id and pool version; `None` where they are not at hand.
        own_ids: ids of the user's rows -> `pair_id`, where they differ.
    """

    name: str
    pair_id: NDArray[Any]
    stratum: NDArray[Any]
    reason: NDArray[Any]
    step: NDArray[np.int64] | None
    pool_version: NDArray[np.int64] | None
    numbers: Mapping[str, NDArray[np.float64]]
    rank: NDArray[np.int64]
    group: NDArray[np.int64]
    has_scores: bool
    texts: Callable[[str, int], Texts | None]
    own_ids: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pair_id)


def read_decisions(target: Path, arm: str | None = None) -> list[Decisions]:
    """Return what a folder or file says, one entry for each arm of a run.

    Args:
        target: a run folder, an arm's, a trainer's `output_dir`, or a file.
        arm: one arm of the run only.

    Raises:
        DataError: nothing of the kind there, or it is damaged.
        ConfigError: an arm that the run does not have, or of something that has no arms.
    """
    run = RunFolder(target)
    if target.is_dir() and run.arms_root.is_dir():
        arms = run.arms()
        if arm is not None and arm not in arms:
            raise ConfigError(f"{target} has no arm {arm!r}, expected one of {', '.join(arms) or 'none'}")
        found = [_read_arm(folder) for name, folder in arms.items() if arm in (None, name)]
        known = [decisions for decisions in found if decisions is not None]
        if not known:
            raise DataError(f"{target}: no candidates are recorded yet; let the run begin to train, or name another")
        return known
    if arm is not None:
        raise ConfigError(f"--arm is {arm!r}, but {target} is no run folder; leave it out")
    if not target.is_dir():
        return [_read_file(target)]
    for folder in (target / "candidates", target / "checkpoints" / "candidates", target):
        if parts := sorted(folder.glob("steps-*.parquet")):
            return [_of_log(str(target), parts, None, lambda *_: None)]
    raise DataError(
        f"{target} holds no recorded candidates; give the folder of `sage-dpo run`, the output_dir of a SAGETrainer, "
        "or a file of `sage-dpo select`"
    )


def _read_arm(folder: ArmFolder) -> Decisions | None:
    parts = [pool.scores for pool in folder.refreshes().values() if pool.scores.exists()]
    parts = parts or sorted(folder.candidates.glob("steps-*.parquet"))
    if not parts:
        return None

    def texts(pair_id: str, version: int) -> Texts | None:
        path = folder.pool(version).pairs
        return next(iter(read_pairs(path, [pair_id])), None) if path.exists() else None

    config = load_config(folder.run.config) if folder.run.config.exists() else None
    return _of_log(folder.name, parts, config.for_arm(folder.name) if config else None, texts)


def _of_log(
    name: str, parts: Sequence[Path], config: RunConfig | None, texts: Callable[[str, int], Texts | None]
) -> Decisions:
    tables = [_read_parquet(path, _LOGGED, optional=("is_open",)) for path in parts]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    is_kept, is_open = columns["is_kept"].astype(bool), columns["is_open"].astype(bool)
    within = config is None or config.selection.cut == "stratum"
    is_ranked = is_open & np.isfinite(columns["utility"])
    if config is not None and config.selection.selector == "random":
        is_ranked[:] = False
    reason = np.where(is_kept, KEPT, np.where(is_ranked, BELOW, np.where(is_open, NOT_DRAWN, SHUT)))
    _, strata = np.unique(columns["stratum"].astype(str), return_inverse=True)
    group = columns["step"] * (strata.max(initial=0) + 1) + (strata if within else 0)
    rank = np.zeros(len(group), dtype=np.int64)
    rows = np.flatnonzero(is_ranked)
    order = rows[np.lexsort((rows, columns["margin"][rows], -columns["utility"][rows], group[rows]))]
    rank[order] = np.arange(1, len(order) + 1) - np.searchsorted(group[order], group[order], side="left")
    numbers = {number: columns[number].astype(np.float64) for number in NUMBERS}
    return Decisions(
        name=name,
        pair_id=columns["pair_id"],
        stratum=columns["stratum"],
        reason=reason,
        step=columns["step"],
        pool_version=columns["pool_version"],
        numbers=numbers,
        rank=rank,
        group=group,
        has_scores=True,
        texts=texts,
    )


def _read_parquet(path: Path, names: Sequence[str], optional: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return columns of a file of `PairScore` records; an optional one that is not there is true throughout."""
    try:
        with pq.ParquetFile(path) as file:
            present = [name for name in (*names, *optional) if name in file.schema_arrow.names]
            table = file.read(columns=present)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a readable Parquet file ({first_line(error)}); restore it from a copy"
        ) from None
    missing = sorted(set(names) - set(present))
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}; give a file of recorded candidates")
    absent = {name: np.ones(table.num_rows, dtype=bool) for name in optional if name not in present}
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in present} | absent


def _read_file(path: Path) -> Decisions:
    source = BlockSource(path)
    schema = source.arrow_schema()
    if schema is not None and set(_LOGGED) <= set(schema.names):
        return _of_log(str(path), [path], None, lambda *_: None)
    wanted = [f"{PREFIX}{name}" for name in (*SCORES, *DECISIONS)]
    columns: dict[str, list[Any]] = {name: [] for name in [*wanted, "id"]}
    seen: set[str] = set()
    for block in source.blocks(_BLOCK_ROWS):
        seen.update(*block.rows)
        for name, column in columns.items():
            column.extend(row.get(name) for row in block.rows)
    ids = columns.pop("id")
    values = {name: columns[f"{PREFIX}{name}"] for name in (*SCORES, *DECISIONS)}
    if not ids:
        raise DataError(f"{path} has no rows; give a file of `sage-dpo select` or `pairs`")
    names = [own or given or f"row-{n}" for n, (own, given) in enumerate(zip(values["pair_id"], ids, strict=True))]
    has_scores = any(own is not None for own in values["pair_id"])
    if not (has_scores or any(side in column for column in seen for side in ("chosen", "rejected"))):
        raise DataError(f"{path} holds neither scores nor pairs; give a file of `sage-dpo select` or `pairs`")
    try:
        rank = np.array([place or 0 for place in values["rank"]], dtype=np.int64)
        numbers = {name: np.array(values[name], dtype=np.float64) for name in NUMBERS}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: a score is no number ({error}); write the file again with `sage-dpo select`"
        ) from None
    stratum = np.array([name or "" for name in values["stratum"]], dtype=object)
    is_global = len(np.unique(rank[rank > 0])) == (rank > 0).sum()
    _, strata = np.unique(stratum.astype(str), return_inverse=True)
    reasons = [why or (KEPT if has_scores else "") for why in values["reason"]]
    return Decisions(
        name=str(path),
        pair_id=np.array([str(name) for name in names], dtype=object),
        stratum=stratum,
        reason=np.array(reasons, dtype=object),
        step=None,
        pool_version=None,
        numbers=numbers,
        rank=rank,
        group=np.zeros(len(names), dtype=np.int64) if is_global else strata.astype(np.int64),
        has_scores=has_scores,
        texts=lambda pair_id, _: _row_of(source, [str(name) for name in names].index(pair_id)),
        own_ids={str(own): str(name) for own, name in zip(ids, names, strict=True) if own is not None},
    )


def _row_of(source: BlockSource, number: int) -> Texts:
    """Return a row without what was added to it."""
    first = 0
    for block in source.blocks(_BLOCK_ROWS):
        if number < first + len(block.rows):
            row = block.rows[number - first]
            return {name: value for name, value in row.items() if not name.startswith(PREFIX)}
        first += len(block.rows)
    raise AssertionError(number)
