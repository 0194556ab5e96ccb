"""Loading problems: every format gives the same records, and every message names place, finding and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sage_dpo.errors import DataError
from sage_dpo.problems import load_problems
from sage_dpo.records import Problem

ROWS: list[dict[str, Any]] = [
    {"id": "a", "problem": "1+1?", "answer": "2", "solution": "count", "level": 1},
    {"id": "b", "problem": "2+2?", "answer": "4", "solution": None, "level": 2},
]
EXPECTED = [
    Problem("a", "1+1?", "2", "count", {"level": 1}),
    Problem("b", "2+2?", "4", None, {"level": 2}),
]


def write_lines(path: Path, rows: list[dict[str, Any]], *, newline: str = "\n", prefix: bytes = b"") -> Path:
    path.write_bytes(prefix + newline.join(json.dumps(row, ensure_ascii=False) for row in rows).encode("utf-8"))
    return path


def as_jsonl(folder: Path) -> Any:
    return write_lines(folder / "p.jsonl", ROWS)


def as_windows_jsonl(folder: Path) -> Any:
    return write_lines(folder / "p.jsonl", ROWS, newline="\r\n", prefix=b"\xef\xbb\xbf")


def as_jsonl_with_blank_lines(folder: Path) -> Any:
    return write_lines(folder / "p.jsonl", ROWS, newline="\n\n  \n")


def as_parquet(folder: Path) -> Any:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "p.parquet")
    return folder / "p.parquet"


def as_folder_of_files(folder: Path) -> Any:
    write_lines(folder / "1.jsonl", ROWS[:1])
    pq.write_table(pa.Table.from_pylist(ROWS[1:]), folder / "2.parquet")
    (folder / "notes.txt").write_text("not data")
    return str(folder)


def as_saved_dataset(folder: Path) -> Any:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def as_dataset(folder: Path) -> Any:
    return datasets.Dataset.from_list(ROWS)


def as_generator(folder: Path) -> Any:
    return (row for row in ROWS)


@pytest.mark.parametrize(
    "make",
    [
        as_jsonl,
        as_windows_jsonl,
        as_jsonl_with_blank_lines,
        as_parquet,
        as_folder_of_files,
        as_saved_dataset,
        as_dataset,
        as_generator,
    ],
)
def test_every_format_gives_the_same_problems(make: Callable[[Path], Any], tmp_path: Path) -> None:
    loaded = load_problems(make(tmp_path))
    assert loaded.problems == EXPECTED
    assert loaded.excluded == []
    assert loaded.counts == {}


def test_fields_rename_columns_and_the_old_names_become_metadata() -> None:
    row = {"key": 7, "question": "1+1?", "gold": 2, "answer": "a note"}
    loaded = load_problems([row], fields={"id": "key", "problem": "question", "answer": "gold"})
    assert loaded.problems == [Problem("7", "1+1?", "2", None, {"answer": "a note"})]


def test_rows_are_numbered_if_there_is_no_id_column() -> None:
    rows = [{"problem": "1+1?", "answer": "2"}, {"problem": "2+2?", "answer": "4"}]
    assert [problem.id for problem in load_problems(rows).problems] == ["row-1", "row-2"]


def test_metadata_column_is_merged(tmp_path: Path) -> None:
    as_text = {"id": "a", "problem": "p", "answer": "1", "metadata": '{"steps": 3}'}
    as_object = {"id": "b", "problem": "q", "answer": "1", "metadata": {"steps": 3}, "level": 1}
    loaded = load_problems([as_text, as_object])
    assert [problem.metadata for problem in loaded.problems] == [{"steps": 3}, {"level": 1, "steps": 3}]


@pytest.mark.parametrize(
    ("answer", "expected", "solution"),
    [
        ("6*7 = <<6*7=42>>42\n#### 42", "42", "6*7 = <<6*7=42>>42\n#### 42"),
        ("#### 1,450", "1,450", None),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", None),
        (r"\boxed{1} or \boxed{2}", r"\boxed{1} or \boxed{2}", None),
        (27.0, "27", None),
        (0.5, "0.5", None),
        (-3, "-3", None),
    ],
)
def test_answer_is_taken_out_of_its_wrapping(answer: Any, expected: str, solution: str | None) -> None:
    problem = load_problems([{"id": "a", "problem": "p", "answer": answer}]).problems[0]
    assert problem.answer == expected
    assert problem.solution == solution


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": ""}, "empty_answer"),
        ({"answer": "  "}, "empty_answer"),
        ({"answer": None}, "empty_answer"),
        ({"answer": "no result\n####"}, "empty_answer"),
        ({"answer": {"value": "1"}}, "answer_not_text"),
        ({"answer": []}, "empty_answer"),
        ({"answer": float("nan")}, "empty_answer"),
        ({"answer": 10**5000}, "answer_not_text"),
        ({"answer": True}, "answer_not_text"),
        ({"problem": " "}, "empty_problem"),
        ({"problem": {"text": "p"}}, "problem_not_text"),
    ],
)
def test_bad_content_excludes_and_counts_the_row(change: dict[str, Any], reason: str) -> None:
    bad = {"id": "bad", "problem": "p", "answer": "1"} | change
    loaded = load_problems([*ROWS, bad])
    assert loaded.problems == EXPECTED
    assert loaded.counts == {reason: 1}
    assert (loaded.excluded[0].id, loaded.excluded[0].place) == ("bad", "row 3")


def test_unusual_line_separators_inside_a_text_do_not_break_lines(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x1efour"
    path = write_lines(tmp_path / "p.jsonl", [{"id": "a", "problem": text, "answer": "1"}])
    assert load_problems(path).problems[0].problem == text


def test_not_json_names_file_line_and_content(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join([json.dumps(ROWS[0]), "", "{'id': 1}"]))
    with pytest.raises(
        DataError, match=r"p\.jsonl, line 3: not JSON .*got \"\{'id': 1\}\", expected one object a line"
    ):
        load_problems(path)


def test_missing_field_lists_the_columns_and_the_mapping() -> None:
    with pytest.raises(DataError) as caught:
        load_problems([ROWS[0], {"id": "b", "text": "p", "answer": "1"}])
    message = str(caught.value)
    assert message.startswith("row 2: the field 'problem' is missing; the columns present are id, text, answer.")
    assert "fields={'problem': 'COLUMN'} (command line: --field problem=COLUMN)" in message


def test_mapped_but_missing_solution_is_an_error() -> None:
    with pytest.raises(DataError, match="field 'worked' is missing"):
        load_problems(ROWS, fields={"solution": "worked"})


def test_duplicate_id_names_both_places(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [*ROWS, {**ROWS[0], "answer": "another"}])
    with pytest.raises(DataError, match=r"line 3: the id 'a' was used before, at .*line 1; ids must be unique"):
        load_problems(path)


def test_id_missing_in_a_later_row_is_an_error() -> None:
    with pytest.raises(DataError, match="row 2: the field 'id' is missing"):
        load_problems([ROWS[0], {"problem": "p", "answer": "1"}])


@pytest.mark.parametrize("identifier", [None, " ", 1.5, True])
def test_unusable_id_is_an_error(identifier: Any) -> None:
    with pytest.raises(DataError, match=r"row 1: the id is .*expected a non-empty text or an integer"):
        load_problems([{"id": identifier, "problem": "p", "answer": "1"}])


def test_unknown_field_name_is_an_error() -> None:
    with pytest.raises(DataError, match=r"fields has the keys \['question'\], expected some of id, problem"):
        load_problems(ROWS, fields={"question": "problem"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"[1, 2]\n", "is one JSON array, expected one object a line; name it p.json, or convert it: `jq"),
        ("p.jsonl", b'"text"\n', "line 1: got str, expected an object"),
        ("p.jsonl", '{"id": "a"}'.encode("utf-16"), "is UTF-16, expected UTF-8"),
        ("p.jsonl", b'{"id": "\xff"}', r"line 1: not UTF-8 \(invalid start byte at byte 8\)"),
        ("p.jsonl", b'{"a":' * 100_000, "line 1: not JSON"),
        ("p.csv", b"id,problem\n", "suffix '.csv' is not supported; expected JSON lines"),
        ("p.parquet", b"not parquet", "cannot be read as Parquet"),
    ],
)
def test_unreadable_file_says_why(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_problems(tmp_path / name)


def test_missing_path_and_empty_folder_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder; expected JSON lines"):
        load_problems(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds neither \.jsonl nor \.parquet files"):
        load_problems(tmp_path)


def test_several_splits_ask_for_one(tmp_path: Path) -> None:
    splits = datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS), "train": datasets.Dataset.from_list(ROWS)})
    with pytest.raises(DataError, match=r"keys 'test', 'train', expected rows; choose one split"):
        load_problems(splits)
    splits.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"holds the splits test, train, expected one; give the folder of a split"):
        load_problems(tmp_path / "saved")
    assert load_problems(tmp_path / "saved" / "train").problems == EXPECTED


def test_no_problem_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match=r"p\.jsonl: 0 problems; give a file with one problem a row"):
        load_problems(tmp_path / "p.jsonl")
    rows = [{"problem": "p", "answer": ""}, {"problem": "p", "answer": float("nan")}]
    with pytest.raises(DataError, match=r"0 problems, excluded: \{'empty_answer': 2\} \(first at row 1\)"):
        load_problems(rows)


FILES: dict[str, tuple[list[Any], dict[str, str], list[tuple[str, str]]]] = {
    "GSM8K": (
        [{"question": "Total?", "answer": "1200+34=<<1200+34=1234>>1234\n#### 1,234"}],
        {"problem": "question"},
        [("Total?", "1,234")],
    ),
    "MATH": (
        [{"problem": "Add.", "level": "Level 2", "type": "Algebra", "solution": r"So $\boxed{\frac{5}{6}}$."}],
        {"answer": "last_box(solution)"},
        [("Add.", r"\frac{5}{6}")],
    ),
    "MATH-500": (
        [{"problem": "Add.", "solution": "..", "answer": "3", "unique_id": "test/a/1.json"}],
        {"id": "unique_id"},
        [("Add.", "3")],
    ),
    "DAPO, verl": (
        [
            {
                "prompt": [{"role": "user", "content": "Compute 7+8."}],
                "reward_model": {"ground_truth": "15", "style": "rule"},
                "extra_info": {"index": "a"},
            }
        ]
        * 2,  # DAPO repeats its rows
        {"problem": "prompt", "answer": "reward_model.ground_truth", "id": "extra_info.index"},
        [("Compute 7+8.", "15")],
    ),
    "Skywork": (
        [
            {"prompt": [{"role": "user", "content": "Compute."}], "reward_model": {"ground_truth": truth}}
            for truth in ('["15"]', "['15']", r'["\\frac{1}{2}"]')
        ],
        {"problem": "prompt.0.content", "answer": "reward_model.ground_truth"},
        [("Compute.", "15"), ("Compute.", "15"), ("Compute.", r"\frac{1}{2}")],
    ),
    "Open-Reasoner-Zero": (
        [[{"from": "human", "value": "Compute."}, {"from": "assistant", "ground_truth": {"value": "15"}}]] * 2,
        {"problem": "0.value", "answer": "1.ground_truth.value"},
        [("Compute.", "15")] * 2,
    ),
    "DeepScaleR": ([{"problem": "p", "answer": "15", "solution": "s"}], {}, [("p", "15")]),
    "OlympiadBench": (
        [{"id": 1606, "question": "How many?", "solution": ["2."], "final_answer": ["2"]}],
        {"problem": "question", "answer": "final_answer", "solution": "solution.0"},
        [("How many?", "2")],
    ),
    "several answers": (
        [{"question": "Find x.", "final_answer": ["1", "-1"]}],
        {"problem": "question", "answer": "joined(final_answer)"},
        [("Find x.", "1, -1")],
    ),
    "AMC": (
        [{"id": 0, "problem": "p", "answer": 27.0}, {"id": 1, "problem": "q", "answer": 12.5}],
        {},
        [("p", "27"), ("q", "12.5")],
    ),
    "a list as an answer": ([{"problem": "p", "answer": "[1, 2]"}], {}, [("p", "[1, 2]")]),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_files_load_as_their_projects_publish_them(name: str, suffix: str, tmp_path: Path) -> None:
    rows, fields, expected = FILES[name]
    path = tmp_path / f"p{suffix}"
    path.write_text("\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows, indent=2))
    loaded = load_problems(path, fields)
    assert [(problem.problem, problem.answer) for problem in loaded.problems] == expected


def test_one_problem_a_file_as_math_has_them(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / "train" / f"topic{number}"
        folder.mkdir(parents=True)
        row = {"problem": f"p{number}", "solution": rf"\boxed{{{number}}}"}
        (folder / "1.json").write_text(json.dumps(row, indent=4))
    loaded = load_problems(tmp_path / "train", {"answer": "last_box(solution)"})
    assert [(problem.problem, problem.answer) for problem in loaded.problems] == [("p1", "1"), ("p2", "2")]
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"holds the splits test, train, expected one"):
        load_problems(tmp_path, {"answer": "last_box(solution)"})


@pytest.mark.parametrize(
    ("row", "fields", "message"),
    [
        ({"problem": "p", "solution": r"\boxed{1}"}, {}, "--field answer=last_box(solution)"),
        ({"problem": "p", "reward_model": {"ground_truth": "1"}}, {}, "--field answer=reward_model.ground_truth"),
        ({"question": "p", "answer": "1"}, {}, "--field problem=question"),
        ({"problem": "p", "answer": "1"}, {"answer": "answer.value"}, "row 1: the field 'answer.value' is missing"),
        ({"problem": "p", "answer": ["1", "2"]}, {}, "'answer' is a list of 2 answers, expected one; take all of them"),
        (
            {"problem": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}], "answer": "1"},
            {},
            "row 1: 'problem' is a conversation of ['system', 'user'], expected one user message",
        ),
        ({"problem": [{"role": "user"}], "answer": "1"}, {}, "row 1: 'problem' holds the message {'role': 'user'}"),
    ],
)
def test_what_is_missing_is_named_with_what_it_may_be(row: Any, fields: dict[str, str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_problems([row], fields)
    assert message in str(caught.value)
    assert str(caught.value).startswith("row 1: ")


@pytest.mark.parametrize(("name", "count"), [("gsm8k_train", 7473), ("math_train", 7498), ("college_math", 2818)])
def test_benchmark_files_load_completely(name: str, count: int, benchmark_data: Path) -> None:
    loaded = load_problems(benchmark_data / f"{name}.jsonl")
    assert len(loaded.problems) == count
    assert loaded.excluded == []
