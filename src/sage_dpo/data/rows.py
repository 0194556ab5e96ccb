"""Rows with their places, from JSON, JSON lines, Parquet, folders, `datasets` or any iterable of mappings.

A place is what a message names: `train.jsonl, line 7` or `train.parquet, row 7`, both counted from 1. A row that is a
list has its items as columns `0`, `1`, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sage_dpo.errors import DataError
from sage_dpo.storage import as_row, numbered_rows, read_document

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Row = tuple[str, Mapping[str, Any]]

_JSON, _LINES, _PARQUET = ".json", (".jsonl", ".ndjson"), ".parquet"
_EXPECTED = "expected JSON lines (.jsonl), JSON (.json), Parquet (.parquet) or a folder saved by datasets.save_to_disk"


def read_rows(source: str | Path | Iterable[Mapping[str, Any]], *, split: str | None = None) -> Iterator[Row]:
    """Yield (place, row).

    Args:
        source: path, or any iterable of mappings.
        split: which one of a saved `DatasetDict`; without it such a folder is refused.

    Raises:
        DataError: no such path, an unreadable file or line, several splits instead of rows.
    """
    if isinstance(source, str | Path):
        for leaf in leaves(Path(source), split):
            yield from read_leaf(leaf)
        return
    if isinstance(source, Mapping):
        names = ", ".join(repr(name) for name in source)
        raise DataError(f"got a mapping with the keys {names}, expected rows; choose one split, as in data['train']")
    for number, row in enumerate(source, start=1):
        if not isinstance(row, Mapping):
            raise DataError(f"row {number}: got {type(row).__name__}, expected an object with named fields")
        yield f"row {number}", row


def read_leaf(path: Path) -> Iterator[Row]:
    """Yield the rows of one of `leaves`; errors as for `read_rows`."""
    if path.is_dir():
        for number, row in enumerate(load_saved(path), start=1):
            yield f"{path}, row {number}", row
    elif path.suffix == _PARQUET:
        yield from _read_parquet(path)
    elif path.suffix == _JSON:
        yield from _read_document(path)
    else:
        yield from _read_lines(path)


def leaves(path: Path, split: str | None = None) -> list[Path]:
    """Return what a path holds, in the order in which it is read: files of a known kind, or a saved data set's folder.

    Raises:
        DataError: no such path, a file of another kind, several splits, or a folder of something else.
    """
    if path.is_dir():
        return _folder_leaves(path, split)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; {_EXPECTED}")
    if path.suffix not in (_PARQUET, _JSON, *_LINES):
        raise DataError(
            f"{path}: the suffix {path.suffix!r} is not supported; {_EXPECTED}. "
            "Convert it, for example with datasets.Dataset.from_csv(...).to_json(...)"
        )
    return [path]


def _read_document(path: Path) -> Iterator[Row]:
    """Yield the rows of one JSON array, the only row of one JSON object, or those of JSON lines under this name."""
    value = read_document(path)
    if value is None:
        yield from _read_lines(path)
    elif isinstance(value, list):
        for number, row in enumerate(value, start=1):
            yield f"{path}, row {number}", as_row(row, f"{path}, row {number}")
    else:
        yield str(path), as_row(value, str(path))


def _read_lines(path: Path) -> Iterator[Row]:
    for number, row in numbered_rows(path, allows_lists=True):
        yield f"{path}, line {number}", row


def _read_parquet(path: Path) -> Iterator[Row]:
    number = 0
    for batch in parquet_batches(path, 1024):
        for row in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", row


def parquet_batches(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file's rows, `size` at a time, as Arrow holds them.

    Raises:
        DataError: the file is damaged; says behind which row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size):
                yield batch
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet behind row {number} ({first_line(error)}); restore it from a copy"
        ) from error


def _folder_leaves(path: Path, split: str | None) -> list[Path]:
    if (path / "dataset_dict.json").exists():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        if split not in splits:
            raise DataError(
                f"{path}: holds the splits {', '.join(splits)}, expected one"
                + (f", not {split!r}; set `split`" if split else "")
                + f"; give the folder of a split, as in {path / (splits[0] if splits else 'train')}"
            )
        path = path / str(split)
    return [path] if (path / "state.json").exists() else _files(path)


def load_saved(path: Path) -> Dataset:
    """Return a data set that `datasets.save_to_disk` wrote.

    Raises:
        DataError: it cannot be read.
    """
    import datasets

    try:
        return cast("Dataset", datasets.load_from_disk(str(path)))
    except Exception as error:  # whatever a damaged Arrow file comes to
        raise DataError(f"{path}: cannot be read as a saved datasets folder ({first_line(error)})") from None


def _files(path: Path) -> list[Path]:
    """The folder's own JSON lines and Parquet files; without any, the JSON files in and below it, as MATH has them."""
    files = sorted(child for child in path.iterdir() if child.suffix in (*_LINES, _PARQUET))
    if files:
        return files
    splits = sorted({child.name for child in path.iterdir() if child.is_dir()} & {"train", "test", "validation"})
    if len(splits) > 1:
        raise DataError(f"{path}: holds the splits {', '.join(splits)}, expected one; give the folder of a split")
    files = sorted(path.rglob(f"*{_JSON}"))
    if not files:
        raise DataError(f"{path}: holds neither .jsonl nor .parquet files nor .json; {_EXPECTED}")
    return files


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
