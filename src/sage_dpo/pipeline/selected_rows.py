"""Writing what was selected: the rows as they came, with the numbers and the reason of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sage_dpo.core.strata import STRATA
from sage_dpo.data.blocks import Block
from sage_dpo.data.score_columns import BELOW, KEPT, NUMBERS, PREFIX, SHUT
from sage_dpo.data.writing import open_writer
from sage_dpo.pairs import PreferenceStream
from sage_dpo.pipeline.score_file import USABLE, reason_of
from sage_dpo.selection.whole import WholeCut


def write_selected(
    output: Path,
    stream: PreferenceStream,
    states: NDArray[np.uint8],
    cut: WholeCut,
    added: Mapping[str, type],
    *,
    annotate: bool,
    progress: bool,
) -> None:
    """Write the rows of a data set, in their order.

    Args:
        output: `.jsonl` or `.parquet`; appears whole or not at all.
        stream: the data set, N rows.
        states: `[N]`, `USABLE` or why a row is left out.
        cut: what became of the usable rows.
        added: columns to add, with their types.
        annotate: write all rows, not the kept ones only.
        progress: show a progress bar.

    Raises:
        DataError: a value that the output's kind cannot hold.
    """
    is_kept = cut.selection.mask
    first = first_usable = 0
    with (
        open_writer(output, stream.schema, added) as writer,
        tqdm(total=stream.count, desc="writing", unit="row", disable=not progress) as bar,
    ):
        for block, _ in stream.blocks():
            some = states[first : first + len(block.rows)]
            usable = np.flatnonzero(some == USABLE)
            rows = slice(first_usable, first_usable + len(usable))
            written = np.ones(len(some), dtype=bool)
            if not annotate:
                written[:] = False
                written[usable] = is_kept[rows]
            if written.any():
                values = dict(_values(block, first, some, usable, cut, rows, has_ids=stream.reader is None))
                writer.write(block, written, {name: values[name.removeprefix(PREFIX)] for name in added})
            first, first_usable = first + len(block.rows), rows.stop
            bar.update(len(block.rows))


def _values(
    block: Block,
    first: int,
    states: NDArray[np.uint8],
    usable: NDArray[np.int64],
    cut: WholeCut,
    rows: slice,
    *,
    has_ids: bool,
) -> Iterator[tuple[str, list[Any]]]:
    """Yield the columns of a block; what a row has no value for is `None`.

    Args:
        block: of which `first` is the number of the first row.
        states: of its rows.
        usable: which of them the cut knows, as its `rows`.
        has_ids: whether the rows' own ids name the pairs.
    """

    def spread(values: Sequence[Any]) -> list[Any]:
        column: list[Any] = [None] * len(states)
        for index, value in zip(usable.tolist(), values, strict=True):
            column[index] = value
        return column

    ids = [row.get("id") if has_ids else None for row in block.rows]
    yield "pair_id", [f"row-{first + index}" if name is None else str(name) for index, name in enumerate(ids)]
    codes = None if cut.strata is None else cut.strata[rows]
    yield "stratum", spread([None] * len(usable) if codes is None else [str(STRATA[code]) for code in codes])
    for name in NUMBERS:
        column = getattr(cut.selection.ranking, name)
        yield name, spread([None] * len(usable) if column is None else column[rows].tolist())
    ranks = cut.ranks[rows].tolist()
    yield "rank", spread([rank or None for rank in ranks])
    is_kept = cut.selection.mask[rows].tolist()
    yield "is_open", spread([rank > 0 for rank in ranks])
    decided = np.zeros(len(states), dtype=bool)
    decided[usable] = is_kept
    yield "is_kept", decided.tolist()
    reasons = [KEPT if kept else BELOW if rank else SHUT for kept, rank in zip(is_kept, ranks, strict=True)]
    yield (
        "reason",
        [own or reason_of(state) for own, state in zip(spread(reasons), states.tolist(), strict=True)],
    )
