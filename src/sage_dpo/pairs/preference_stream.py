"""A preference data set that is read in blocks, as often as needed, and never held whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from sage_dpo.data.blocks import Block, BlockSource, unified
from sage_dpo.data.preferences import PreferenceReader
from sage_dpo.data.rows import Row
from sage_dpo.data.writing import json_schema
from sage_dpo.pairs.preference_data import PreferenceData, find_reader, resolve

BLOCK_ROWS = 256
"""Rows that are held at a time."""


@dataclass(frozen=True)
class PreferenceStream:
    """A data set whose every row has been looked at once.

    Attributes:
        source: of the blocks.
        name: what a message calls the data.
        count: rows.
        columns: of all rows.
        reader, strips_prompt: as for `PreferenceData`.
        schema: Arrow's, of all rows; `None` unless it was asked for.
    """

    source: BlockSource
    name: str
    count: int
    columns: tuple[str, ...]
    reader: PreferenceReader | None
    strips_prompt: bool
    schema: pa.Schema | None

    def blocks(self) -> Iterator[tuple[Block, PreferenceData]]:
        """Yield each block of rows as it is, and as preferences; cut alike at every reading.

        Raises:
            DataError: a row that cannot be read.
        """
        for block in self.source.blocks(BLOCK_ROWS):
            yield block, PreferenceData(block.rows, block.places, self.reader, self.strips_prompt, self.name)


def open_preferences(
    source: str | Path,
    *,
    split: str = "train",
    revision: str | None = None,
    fields: Mapping[str, str | None] | None = None,
    with_schema: bool = False,
    progress: bool = False,
) -> PreferenceStream:
    """Open a preference data set and look at every row once.

    Args:
        source, split, revision, fields: as for `load_preference_data`.
        with_schema: also find the Arrow schema that holds all rows.
        progress: show a progress bar.

    Raises:
        DataError: as for `load_preference_data`; with a schema also a column with values of different types.
    """
    name = str(source)
    blocks = BlockSource(resolve(source, split, revision), split=split, name=name)
    schema = blocks.arrow_schema() if with_schema else None
    infers = with_schema and schema is None
    columns: dict[str, None] = {}
    count = 0
    for block in blocks.blocks(BLOCK_ROWS):
        columns.update(dict.fromkeys(column for row in block.rows for column in row))
        count += len(block.rows)
        if infers:
            found = json_schema(block.rows, block.places[0]) if block.table is None else block.table.schema
            schema = found if schema is None else unified([schema, found], name)
    with tqdm(total=count, desc="reading", unit="row", disable=not progress) as bar:
        reader, strips_prompt = find_reader(columns, _rows(blocks, bar), fields, name)
    return PreferenceStream(blocks, name, count, tuple(columns), reader, strips_prompt, schema)


def _rows(source: BlockSource, bar: tqdm) -> Iterator[Row]:
    for block in source.blocks(BLOCK_ROWS):
        yield from zip(block.places, block.rows, strict=True)
        bar.update(len(block.rows))
