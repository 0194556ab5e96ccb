"""Rows with their places, from JSON lines, Parquet, folders, `datasets` or any iterable of mappings.

A place is what a message names: `train.jsonl, line 7` or `train.parquet, row 7`, both counted from 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sage_dpo.errors import DataError
from sage_dpo.storage import numbered_rows

Row = tuple[str, Mapping[str, Any]]


def read_rows(source: str | Path | Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """Yield (place, row).

    Raises:
        DataError: no such path, an unreadable file or line, a mapping of splits instead of rows.
    """
    if isinstance(source, str | Path):
        yield from _read_path(Path(source))
        return
    if isinstance(source, Mapping):
        names = ", ".join(repr(name) for name in source)
        raise DataError(f"got a mapping with the keys {names}, expected rows; choose one split, as in data['train']")
    for number, row in enumerate(source, start=1):
        if not isinstance(row, Mapping):
            raise DataError(f"row {number}: got {type(row).__name__}, expected an object with the fields of a problem")
        yield f"row {number}", row


def _read_path(path: Path) -> Iterator[Row]:
    if path.is_dir():
        yield from _read_folder(path)
    elif not path.exists():
        raise DataError(
            f"{path}: no such file or folder; expected JSON lines (.jsonl), Parquet (.parquet) or a folder saved by "
            "datasets.save_to_disk"
        )
    elif path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix in (".jsonl", ".json", ".ndjson"):
        for number, row in numbered_rows(path):
            yield f"{path}, line {number}", row
    else:
        raise DataError(
            f"{path}: the suffix {path.suffix!r} is not supported; expected .jsonl or .parquet. "
            "Convert it, for example with datasets.Dataset.from_csv(...).to_json(...)"
        )


def _read_folder(path: Path) -> Iterator[Row]:
    if (path / "dataset_dict.json").exists():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise DataError(
            f"{path}: holds the splits {', '.join(splits)}, expected one; give the folder of a split, "
            f"as in {path / (splits[0] if splits else 'train')}"
        )
    if (path / "state.json").exists():
        import datasets

        for number, row in enumerate(datasets.load_from_disk(str(path)), start=1):
            yield f"{path}, row {number}", row
        return
    files = sorted(child for child in path.iterdir() if child.suffix in (".jsonl", ".parquet"))
    if not files:
        raise DataError(f"{path}: holds neither .jsonl nor .parquet files, nor a folder saved by datasets.save_to_disk")
    for file in files:
        yield from _read_path(file)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); write it again") from error
    number = 0
    for batch in file.iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", row
