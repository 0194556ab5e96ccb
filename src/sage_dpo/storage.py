"""Files of a run: atomic writes, records as Parquet, and the run folder with its manifest.

    runs/<name>/config.yaml manifest.json summary.json
    runs/<name>/problems/{train,probe}.parquet
    runs/<name>/initial/refresh-000/{completions,verdicts,pairs}.parquet info.json   the first pool, of all arms
    runs/<name>/arms/<arm>/refresh-NNN/{completions,verdicts,pairs,scores}.parquet info.json
    runs/<name>/arms/<arm>/{metrics.jsonl,checkpoints/,policy/,evaluation/<suite>.parquet}
    runs/<name>/arms/<arm>/at-NNNNNN/{<suite>.parquet,costs.json}   suites on the way
    runs/<name>/report/{index.html,table.md}
    runs/studies/<name>/<condition>/{seed-N/,seed-N.yaml,seed-N.log}   seed-N/ is a run folder
    runs/studies/<name>/{results.json,table.md,index.html,plots/}

Every file is written under a temporary name and renamed, so that a reader never sees half of one. A stage is
complete when the manifest says so; rerunning a command skips complete stages.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import time
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from sage_dpo.errors import DataError, RunFolderError

Record = TypeVar("Record")
LOCK = "run.lock"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MAKE_AGAIN = "restore it from a copy, or repeat the run in another folder (`--output`)"
_LIBRARIES = ("sage-dpo", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "math-verify", "pyarrow")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if not."""
    path = Path(path)
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
    except ValueError as error:  # not JSON, or not UTF-8
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
        DataError: the file is missing, damaged, or has other columns than the record.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run the stage that writes it first") from None
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}); {_MAKE_AGAIN}") from None
    names = [field.name for field in dataclasses.fields(record_type)]  # type: ignore[arg-type]
    missing = sorted(set(names) - set(table.column_names))
    if missing:
        raise DataError(f"{path} lacks the columns {missing}, expected {names} of {record_type.__name__}")
    hints = typing.get_type_hints(record_type)
    columns = [[_decode(value, hints[name]) for value in table.column(name).to_pylist()] for name in names]
    return [record_type(*values) for values in zip(*columns, strict=True)]


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


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a result, and of Python."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold a folder, created if needed, against other processes that want to write it.

    Raises:
        RunFolderError: another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunFolderError(
            f"another process is writing {root}; wait until it has ended, or give another `--output`"
        ) from None
    try:
        yield
    finally:
        lock.release()


class RunFolder:
    """One run's folder: resolved configuration, manifest, and which stages are complete.

    Args:
        root: the folder; created if needed.
        config_text: the resolved configuration as YAML.

    Raises:
        RunFolderError: the folder holds a run of another configuration.
    """

    def __init__(self, root: str | Path, config_text: str) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self._manifest_path = self.root / "manifest.json"
        digest = hashlib.sha256(config_text.encode()).hexdigest()
        if self._manifest_path.exists():
            self.manifest: dict[str, Any] = read_json(self._manifest_path)
            self._check_same_config(digest, config_text)
        else:
            if self.path("arms").exists() or self.path("initial").exists():
                raise RunFolderError(
                    f"{self.root} holds parts of a run but no manifest.json; delete it or give another `--output`"
                )
            write_text(self.root / "config.yaml", config_text)
            self.manifest = {"config_sha256": digest, "versions": library_versions(), "data": {}, "stages": {}}
            self._save()

    def _check_same_config(self, digest: str, config_text: str) -> None:
        if self.manifest.get("config_sha256") == digest:
            return
        old = (self.root / "config.yaml").read_text(encoding="utf-8").splitlines()
        changed = [line.strip() for line in config_text.splitlines() if line not in old]
        raise RunFolderError(
            f"{self.root} holds a run of another configuration (changed: {'; '.join(changed[:5]) or 'keys removed'}); "
            "give another `name` or `--output`, or delete the folder with `--fresh`"
        )

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def is_complete(self, stage: str) -> bool:
        return stage in self.manifest["stages"]

    def seconds(self, stage: str) -> float:
        """Wall-clock of the attempt that completed a stage."""
        return float(self.manifest["stages"][stage]["seconds"])

    def info(self, stage: str) -> dict[str, Any]:
        """What the stage recorded about itself."""
        return dict(self.manifest["stages"][stage]["info"])

    def stage(self, name: str, work: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Run `work` unless the stage is complete; record its wall-clock and the mapping it returns."""
        if not self.is_complete(name):
            started = time.perf_counter()
            info = work() or {}
            self.manifest["stages"][name] = {"seconds": time.perf_counter() - started, "info": info}
            self._save()
        return self.info(name)

    def record_data(self, name: str, sha256: str) -> None:
        self.manifest["data"][name] = sha256
        self._save()

    def _save(self) -> None:
        write_json(self._manifest_path, self.manifest)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file; errors as for `numbered_rows`."""
    return [row for _, row in numbered_rows(path)]


def numbered_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, row) of a JSON Lines file; empty lines are passed over.

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
            if line.strip():
                yield number, parse_row(line, f"{path}, line {number}")


def parse_row(line: bytes, place: str) -> dict[str, Any]:
    """Return the JSON object that one line holds.

    Args:
        line: bytes of the line.
        place: what a message calls it: `train.jsonl, line 7`.

    Raises:
        DataError: not UTF-8, not JSON, not an object, or half of a surrogate pair in it, which no file can hold again.
    """
    try:
        row = json.loads(line.decode("utf-8"))
        if _SURROGATE.search(line):
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8") from error
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):x}"
        raise DataError(
            f"{place}: {half} is half of a surrogate pair, not a character; write the whole pair"
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or an integer of more than 4,300 digits
        start = line[:60].decode("utf-8", "replace").strip()
        raise DataError(f"{place}: not JSON ({error}); got {start!r}, expected one object a line") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: got {type(row).__name__}, expected an object; write one object a line")
    return row


def _without_byte_order_mark(line: bytes, path: Path) -> bytes:
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: is UTF-16, expected UTF-8; convert it, for example `iconv -f utf-16 -t utf-8`")
    line = line.removeprefix(codecs.BOM_UTF8)
    if line.lstrip().startswith(b"["):
        raise DataError(f"{path}: is one JSON array, expected one object a line; convert it: `jq -c '.[]' {path.name}`")
    return line


def write_jsonl(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
