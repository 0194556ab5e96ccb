"""Rows written as they came, in blocks, some of them left out, with columns added: JSON Lines or Parquet.

From Arrow to Parquet the types are kept, from JSON to JSON Lines the rows with their own keys; from one to the other
every row has every column.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sage_dpo.data.blocks import Block
from sage_dpo.data.rows import first_line
from sage_dpo.errors import DataError
from sage_dpo.storage import atomic_path

SUFFIXES = (".jsonl", ".parquet")
_ARROW: Mapping[type, pa.DataType] = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}


class BlockWriter(Protocol):
    """Takes blocks in order."""

    def write(self, block: Block, is_kept: NDArray[np.bool_], added: Mapping[str, Sequence[Any]]) -> None:
        """Write a block's kept rows.

        Args:
            block: N rows.
            is_kept: `[N]`, which of them.
            added: columns to add, N values each.

        Raises:
            DataError: a value that the format cannot hold.
        """


@contextlib.contextmanager
def open_writer(path: Path, schema: pa.Schema | None, added: Mapping[str, type]) -> Iterator[BlockWriter]:
    """Yield a writer of a file that appears whole or not at all; its kind is the path's suffix.

    Args:
        path: `.jsonl` or `.parquet`.
        schema: of the rows; for Parquet.
        added: names and types of the columns to add.
    """
    with atomic_path(path) as temporary:
        if path.suffix == ".jsonl":
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                yield _JsonLines(file)
            return
        assert schema is not None
        fields = [pa.field(name, _ARROW[kind]) for name, kind in added.items()]
        whole = pa.schema([*schema, *fields], metadata=schema.metadata)
        try:
            writer = pq.ParquetWriter(temporary, whole)
        except pa.ArrowException as error:
            raise _not_parquet(first_line(error)) from None
        with writer:
            yield _Parquet(writer, schema, whole)


def json_schema(rows: Sequence[Mapping[str, Any]], place: str) -> pa.Schema:
    """Return the Arrow schema that holds rows from JSON.

    Raises:
        DataError: a column has values of different types.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([(name, _array(name, rows, None, place).type) for name in names])


class _JsonLines:
    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, block: Block, is_kept: NDArray[np.bool_], added: Mapping[str, Sequence[Any]]) -> None:
        for index in np.flatnonzero(is_kept).tolist():
            row = {**block.rows[index], **{name: values[index] for name, values in added.items()}}
            try:
                self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            except TypeError as error:
                raise DataError(f"{block.places[index]}: {error}, so write --output .parquet") from None


class _Parquet:
    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema, whole: pa.Schema) -> None:
        self._writer, self._schema, self._whole = writer, schema, whole

    def write(self, block: Block, is_kept: NDArray[np.bool_], added: Mapping[str, Sequence[Any]]) -> None:
        table = self._table(block)
        for name, values in added.items():
            table = table.append_column(name, pa.array(values, type=self._whole.field(name).type))
        table = table.filter(pa.array(is_kept)).replace_schema_metadata(self._whole.metadata)
        if table.num_rows:
            self._writer.write_table(table)

    def _table(self, block: Block) -> pa.Table:
        place = block.places[0]
        if block.table is None:
            columns = [_array(field.name, block.rows, field.type, place) for field in self._schema]
            return pa.table(columns, schema=self._schema)
        if block.table.schema.equals(self._schema):
            return block.table
        names = set(block.table.column_names)
        columns = [
            block.table.column(field.name).cast(field.type)
            if field.name in names
            else pa.nulls(block.table.num_rows, field.type)
            for field in self._schema
        ]
        return pa.table(columns, schema=self._schema)


def _array(name: str, rows: Sequence[Mapping[str, Any]], kind: pa.DataType | None, place: str) -> pa.Array:
    try:
        return pa.array([row.get(name) for row in rows], type=kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _not_parquet(f"column {name!r}, from {place} on: {first_line(error)}") from None


def _not_parquet(reason: str) -> DataError:
    return DataError(f"the rows have values that Parquet cannot hold ({reason}); write --output .jsonl")
