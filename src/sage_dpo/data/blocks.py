"""Rows in blocks, each read anew: for data that is larger than memory, and whose Arrow types are to be kept."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sage_dpo.data.rows import Row, first_line, leaves, load_saved, parquet_batches, read_leaf
from sage_dpo.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Block:
    """Some consecutive rows.

    Attributes:
        places: what a message calls each.
        rows: the rows.
        table: the same as Arrow holds them, where the source has Arrow's types.
    """

    places: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    table: pa.Table | None = None


class BlockSource:
    """A user's data, read in blocks as often as asked for.

    A JSON document (`.json`) is the one kind that is held whole while it is read.

    Args:
        source: file, folder, or an open `Dataset`.
        split: of a saved `DatasetDict`.
        name: what messages call an open data set.

    Raises:
        DataError: no such path, or something else than data.
    """

    def __init__(self, source: Path | Dataset, *, split: str | None = None, name: str = "") -> None:
        self._parts: list[Path] | Dataset = leaves(source, split) if isinstance(source, Path) else source
        self._name = name

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield at most `size` rows at a time, files in order; no block goes across two files.

        Raises:
            DataError: an unreadable file or line.
        """
        if not isinstance(self._parts, list):
            yield from _saved_blocks(self._parts, self._name, size)
            return
        for leaf in self._parts:
            if leaf.is_dir():
                yield from _saved_blocks(load_saved(leaf), str(leaf), size)
            elif leaf.suffix == ".parquet":
                tables = (pa.Table.from_batches([batch]) for batch in parquet_batches(leaf, size))
                yield from _arrow_blocks(tables, str(leaf))
            else:
                yield from _row_blocks(read_leaf(leaf), size)

    def arrow_schema(self) -> pa.Schema | None:
        """Return the Arrow schema of the rows; `None` where they come from JSON.

        Raises:
            DataError: files of a folder whose columns have types that do not go together, or a damaged one.
        """
        if not isinstance(self._parts, list):
            return self._parts.features.arrow_schema
        schemas = [_schema(leaf) for leaf in self._parts]
        found = [schema for schema in schemas if schema is not None]
        return unified(found, str(self._parts[0].parent)) if found and len(found) == len(schemas) else None

    def digest(self) -> str:
        """Return a hash of everything that is read."""
        if not isinstance(self._parts, list):
            return str(self._parts._fingerprint)
        digest = hashlib.sha256()
        for leaf in self._parts:
            for path in sorted(leaf.rglob("*.arrow")) if leaf.is_dir() else [leaf]:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def unified(schemas: Sequence[pa.Schema], name: str) -> pa.Schema:
    """Return the schema that can hold the rows of all.

    Raises:
        DataError: a column has types that do not go together.
    """
    try:
        return pa.unify_schemas(list(schemas), promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"{name}: a column has values of different types, which Parquet cannot hold ({first_line(error)}); write "
            "--output .jsonl, or mend the column"
        ) from None


def _schema(leaf: Path) -> pa.Schema | None:
    if leaf.is_dir():
        return load_saved(leaf).features.arrow_schema
    if leaf.suffix != ".parquet":
        return None
    try:
        return pq.read_schema(leaf)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{leaf}: cannot be read as Parquet ({first_line(error)}); restore it from a copy") from None


def _saved_blocks(dataset: Dataset, name: str, size: int) -> Iterator[Block]:
    return _arrow_blocks(dataset.with_format("arrow").iter(batch_size=size), name)


def _arrow_blocks(tables: Iterator[pa.Table], name: str) -> Iterator[Block]:
    first = 1
    for table in tables:
        places = [f"{name}, row {number}" for number in range(first, first + table.num_rows)]
        yield Block(places, table.to_pylist(), table)
        first += table.num_rows


def _row_blocks(rows: Iterator[Row], size: int) -> Iterator[Block]:
    while some := list(itertools.islice(rows, size)):
        yield Block([place for place, _ in some], [row for _, row in some])
