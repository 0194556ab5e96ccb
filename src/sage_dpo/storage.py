"""Reading and writing files: atomic writes, JSON, JSON Lines, and records as Parquet.

Every file is written under a temporary name and renamed, so that a reader never sees half of one; links stay links.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import json
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sage_dpo.errors import DataError

Record = TypeVar("Record")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MAKE_AGAIN = "restore it from a copy, or repeat the run in another folder (`--output`)"


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if not.

    A link stays: what it leads to is replaced. What is neither a file nor a folder (a device, a pipe) is written to as
    it is.

    Raises:
        DataError: `path` is a folder.
        OSError: it cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder, expected the name of a file; give another name")
    if str(path).startswith(("/dev/", "/proc/")) or (path.exists() and not path.is_file()):
        yield path
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run the stage that writes it first") from None
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise DataError(f"{path} is not valid JSON ({error}); {_MAKE_AGAIN}") from None


def write_records(path: str | Path, records: Iterable[Any], record_type: type) -> None:
    """Write dataclass records as Parquet, one column per field; mappings are stored as JSON text.

    The schema comes from the record type, so a file of zero records still has its columns.
    """
    schema = _schema(record_type)
    rows = list(records)
    columns = {
        field.name: [_encode(getattr(row, field.name)) for row in rows] for field in dataclasses.fields(record_type)
    }
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary)


def read_records(path: str | Path, record_type: type[Record]) -> list[Record]:
    """Read the records that `write_records` wrote.

    Raises:
        DataError: the file is missing, damaged, or holds something else than the record; names file and row.
    """
    fields = dataclasses.fields(record_type)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    table = _read_table(path, names, record_type)
    hints = typing.get_type_hints(record_type)
    for name in names:
        column = table.column(name)
        if column.null_count and _without_none(hints[name]) is hints[name]:
            row = next(number for number, value in enumerate(column, start=1) if not value.is_valid)
            raise DataError(f"{path}, row {row}: {name} is empty, expected a {record_type.__name__}'s; {_MAKE_AGAIN}")
    records = []
    for number, values in enumerate(zip(*(table.column(name).to_pylist() for name in names), strict=True), start=1):
        try:
            decoded = [_decode(value, hints[name]) for name, value in zip(names, values, strict=True)]
            records.append(record_type(*decoded))
        except ValueError as error:  # a DataError of the record's own, an unknown word, JSON that is none
            raise DataError(f"{path}, row {number}: {error}; {_MAKE_AGAIN}") from None
    return records


def _read_table(path: str | Path, names: list[str], record_type: type) -> pa.Table:
    """Return the record's columns, in its types.

    Raises:
        DataError: as for `read_records`.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run the stage that writes it first") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is not a readable Parquet file ({reason}); {_MAKE_AGAIN}") from None
    missing = sorted(set(names) - set(table.column_names))
    if missing:
        raise DataError(f"{path} lacks the columns {missing}, expected {names} of {record_type.__name__}")
    try:
        return table.select(names).cast(_schema(record_type))
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{path} has columns of other types than {record_type.__name__} ({reason}); give a file of that stage"
        ) from None


def _schema(record_type: type) -> pa.Schema:
    hints = typing.get_type_hints(record_type)
    return pa.schema([(field.name, _arrow_type(hints[field.name])) for field in dataclasses.fields(record_type)])


def _arrow_type(annotation: Any) -> pa.DataType:
    annotation = _without_none(annotation)
    if isinstance(annotation, type) and issubclass(annotation, str):
        return pa.string()
    simple = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if annotation in simple:
        return simple[annotation]
    if typing.get_origin(annotation) is tuple:
        return pa.list_(pa.int32() if typing.get_args(annotation)[0] is int else pa.string())
    if typing.get_origin(annotation) is dict:
        return pa.string()
    raise TypeError(f"no Parquet type for {annotation}")


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(annotation) if part is not type(None))
    return annotation


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, StrEnum):
        return str(value)
    return value


def _decode(value: Any, annotation: Any) -> Any:
    if value is None:
        return None
    annotation = _without_none(annotation)
    if typing.get_origin(annotation) is dict:
        return json.loads(value)
    if typing.get_origin(annotation) is tuple:
        return tuple(value)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return annotation(value)
    return value


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file; errors as for `numbered_rows`."""
    return [row for _, row in numbered_rows(path)]


def numbered_rows(path: str | Path, *, allows_lists: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, row) of a JSON Lines file; empty lines are passed over.

    Args:
        path: of the file.
        allows_lists: take a list of different things as a row, see `as_row`.

    Raises:
        DataError: no such file, or a line that is not one JSON object in UTF-8; names file, line and remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the path of a JSON Lines file")
    with path.open("rb") as file:  # as bytes: text lines would also end at U+2028, which JSON strings may hold
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = _without_byte_order_mark(line, path)
                if line.lstrip().startswith(b"[") and not (allows_lists and _is_list_row(line)):
                    raise DataError(
                        f"{path}: is one JSON array, expected one object a line; name it {path.stem}.json, or convert "
                        f"it: `jq -c '.[]' {path.name}`"
                    )
            if line.strip():
                place = f"{path}, line {number}"
                yield number, (as_row(parse_json(line, place), place) if allows_lists else parse_row(line, place))


def _is_list_row(line: bytes) -> bool:
    """Whether a line is a list of objects of different kinds (a turn and its answer), not an array of equal rows."""
    try:
        items = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return len({tuple(item) if isinstance(item, dict) else type(item) for item in items}) > 1


def parse_row(line: bytes, place: str) -> dict[str, Any]:
    """Return the JSON object that one line holds; arguments and errors as for `parse_json`."""
    row = parse_json(line, place)
    if not isinstance(row, dict):
        raise DataError(f"{place}: got {type(row).__name__}, expected an object; write one object a line")
    return row


def as_row(value: Any, place: str) -> dict[str, Any]:
    """Return an object as it is, and a list with its items under `0`, `1`, ...; anything else is an error."""
    if isinstance(value, list):
        return {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, dict):
        raise DataError(f"{place}: got {type(value).__name__}, expected an object with named fields")
    return value


def parse_json(text: bytes, place: str) -> Any:
    """Return the value that a line or a whole file holds.

    Args:
        text: its bytes.
        place: what a message calls it: `train.jsonl, line 7`.

    Raises:
        DataError: not UTF-8, not JSON, or half of a surrogate pair in it, which no file can hold again.
    """
    try:
        value = json.loads(text.decode("utf-8"))
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8") from error
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):x}"
        raise DataError(
            f"{place}: {half} is half of a surrogate pair, not a character; write the whole pair"
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or an integer of more than 4,300 digits
        start = text[:60].decode("utf-8", "replace").strip()
        raise DataError(f"{place}: not JSON ({error}); got {start!r}, expected one object a line") from error
    return value


def read_document(path: str | Path) -> Any:
    """Return what a JSON file of any shape holds; `None` where it holds several values, one a line.

    Raises:
        DataError: as for `parse_json`.
    """
    path = Path(path)
    text = _without_byte_order_mark(path.read_bytes(), path)
    try:
        return parse_json(text, str(path))
    except DataError as error:
        cause = error.__cause__
        if isinstance(cause, json.JSONDecodeError) and cause.msg == "Extra data":
            return None
        raise


def _without_byte_order_mark(text: bytes, path: Path) -> bytes:
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: is UTF-16, expected UTF-8; convert it, for example `iconv -f utf-16 -t utf-8`")
    return text.removeprefix(codecs.BOM_UTF8)


def write_jsonl(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
