"""Files: nothing half-written, and read back as they were."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sage_dpo.errors import DataError
from sage_dpo.records import Completion, FinishReason, PairScore, PreferencePair, Problem, Verdict, VerdictKind
from sage_dpo.storage import (
    atomic_path,
    numbered_rows,
    read_json,
    read_jsonl,
    read_records,
    write_json,
    write_jsonl,
    write_records,
)

SCORE = PairScore(3, "pair", "problem", "easy", 0.5, 0.4, 0.24, 1.0, 0.3, True, 1)
EXAMPLES = [
    Problem("p", "1 + 1?", "2", None, {"level": 3, "contexts": [["carry"], []]}),
    Completion("p", 0, "two é", (1, 2), (3, 4), FinishReason.STOP, 1),
    Verdict("p", 0, VerdictKind.TIMEOUT, None, "deadline", "5 s"),
    PreferencePair("q", "p", (1,), (2,), (3,), "a", "b", "c", 0.25, 1, 2, 3),
    PreferencePair("r", "p", (1,), (2,), (3,)),
    SCORE,
]


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_records_come_back_as_they_were(record, tmp_path):
    write_records(tmp_path / "x.parquet", [record, record], type(record))
    assert read_records(tmp_path / "x.parquet", type(record)) == [record, record]


def test_no_records_is_a_file_too(tmp_path):
    write_records(tmp_path / "x.parquet", [], PreferencePair)
    assert read_records(tmp_path / "x.parquet", PreferencePair) == []


def test_parquet_opens_in_datasets(tmp_path):
    from datasets import Dataset

    write_records(tmp_path / "x.parquet", [SCORE], PairScore)
    assert Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path))[0]["pair_id"] == "pair"


def test_reading_what_is_not_there_or_damaged_or_another_kind(tmp_path):
    with pytest.raises(DataError, match="does not exist; run the stage"):
        read_records(tmp_path / "x.parquet", Problem)
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_records(tmp_path / "x.parquet", Problem)
    write_records(tmp_path / "x.parquet", [SCORE], PairScore)
    with pytest.raises(DataError, match="lacks the columns"):
        read_records(tmp_path / "x.parquet", Problem)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes(b'"\xff"')
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(tmp_path / "x.json")


def test_no_message_about_a_damaged_file_advises_to_delete_it(tmp_path):
    for name, read in (("x.json", read_json), ("x.parquet", lambda path: read_records(path, Problem))):
        (tmp_path / name).write_text("{")
        with pytest.raises(DataError, match="restore it from a copy, or repeat the run in another folder") as caught:
            read(tmp_path / name)
        assert "delete" not in str(caught.value)


def test_json_lines_come_back_with_their_numbers(tmp_path):
    rows = [{"a": "x\u2028y"}, {"a": "é"}, {"a": "\N{GRINNING FACE}"}]  # a line ends at newlines only
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert read_jsonl(tmp_path / "x.jsonl") == rows
    escaped = "\ufeff" + "\r\n \r\n".join(map(json.dumps, rows))  # byte order mark, empty lines, whole surrogate pairs
    (tmp_path / "x.jsonl").write_bytes(escaped.encode())
    assert list(numbered_rows(tmp_path / "x.jsonl")) == [(1, rows[0]), (3, rows[1]), (5, rows[2])]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": ', "line 2: not JSON (Expecting value"),
        (b"[1]", "line 2: got list, expected an object"),
        (b"null", "line 2: got NoneType, expected an object"),
        (b'{"a": "\xe9"}', "line 2: not UTF-8 (invalid continuation byte at byte 7); save the file as UTF-8"),
        (b'{"a": ["\\uD83D"]}', "line 2: \\ud83d is half of a surrogate pair, not a character"),
        (b'{"a": ' * 100_000, "line 2: not JSON (maximum recursion depth exceeded"),
        (b'{"a": ' + b"1" * 5000 + b"}", "line 2: not JSON (Exceeds the limit (4300 digits)"),
    ],
)
def test_a_line_that_is_no_object_is_named(line, message, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(DataError, match=re.escape(f"{path}, {message}")) as caught:
        read_jsonl(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_json_lines_at_all_says_how_to_convert_it(tmp_path):
    path = tmp_path / "x.jsonl"
    with pytest.raises(DataError, match="does not exist"):
        read_jsonl(path)
    path.write_bytes('{"a": 1}'.encode("utf-16"))
    with pytest.raises(DataError, match="is UTF-16, expected UTF-8; convert it"):
        read_jsonl(path)
    path.write_text('[{"a": 1}]')
    with pytest.raises(
        DataError, match=r"is one JSON array, expected one object a line; name it x\.json, or convert it"
    ):
        read_jsonl(path)


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "x.json") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(tmp_path / "x.json") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real.json").write_text("0")
    (tmp_path / "link.json").symlink_to(tmp_path / "data" / "real.json")
    (tmp_path / "dangling.json").symlink_to(tmp_path / "data" / "new.json")
    for name, target in (("link.json", "real.json"), ("dangling.json", "new.json")):
        write_json(tmp_path / name, 1)
        assert (tmp_path / name).is_symlink()
        assert read_json(tmp_path / "data" / target) == 1
    found = sorted(path.name for path in tmp_path.rglob("*"))
    assert found == ["dangling.json", "data", "link.json", "new.json", "real.json"]


def test_what_is_no_file_is_not_replaced(tmp_path):
    with pytest.raises(DataError, match="is a folder, expected the name of a file"):
        write_json(tmp_path, 1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with os.fdopen(os.open(pipe, os.O_RDWR | os.O_NONBLOCK)) as reader:
        write_json(pipe, 1)
        assert reader.read(1) == "1"
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_stays_a_device():
    with pytest.raises(OSError, match="No space left"):
        write_json("/dev/full", 1)
    assert Path("/dev/full").is_char_device()


VERDICT = {"problem_id": "a", "sample": 0, "kind": "correct", "extracted": None, "method": "exact", "detail": ""}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": None}, "row 2: sample is empty, expected a Verdict's"),
        ({"kind": None}, "row 2: kind is empty, expected a Verdict's"),
        ({"kind": "maybe"}, "row 2: 'maybe' is not a valid VerdictKind"),
        ({"extracted": "x"}, None),
    ],
)
def test_a_record_that_is_none_is_named_by_file_and_row(change, message, tmp_path):
    path = tmp_path / "v.parquet"
    pq.write_table(pa.Table.from_pylist([VERDICT, {**VERDICT, **change}]), path)
    if message is None:
        assert read_records(path, Verdict)[1].extracted == "x"
        return
    with pytest.raises(DataError, match=re.escape(f"{path}, {message}")):
        read_records(path, Verdict)


def test_other_types_and_damaged_files_are_one_line(tmp_path):
    path = tmp_path / "v.parquet"
    pq.write_table(pa.Table.from_pylist([{**VERDICT, "sample": "first"}]), path)
    with pytest.raises(DataError, match="has columns of other types than Verdict"):
        read_records(path, Verdict)
    pq.write_table(pa.Table.from_pylist([VERDICT] * 1000), path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:200], whole[:-100], whole[:-200] + bytes(192) + whole[-8:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError) as caught:
            read_records(path, Verdict)
        assert "\n" not in str(caught.value)
