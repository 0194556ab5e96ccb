"""Grading from files: every kind of file, and lines that cannot be graded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.config import VerificationSettings
from sage_dpo.errors import DataError
from sage_dpo.pipeline.grading import Grades, _read_completions, grade
from sage_dpo.records import Completion, FinishReason
from sage_dpo.storage import write_jsonl, write_records

PROBLEMS = [
    {"id": "a", "problem": "1 + 1?", "answer": "2", "solution": "It is 2.", "draft": "\\boxed{3}"},
    {"id": "b", "problem": "2 + 2?", "answer": "4", "solution": "Two and two.\n#### 4", "draft": "\\boxed{4}"},
]
ROWS = [{"problem_id": "a", "completion": "\\boxed{2}"}, {"problem_id": "b", "completion": "\\boxed{5}", "sample": 7}]


def grade_in(folder: Path, completions: str, **options: Any) -> Grades:
    write_jsonl(folder / "p.jsonl", PROBLEMS)
    return grade(
        folder / "p.jsonl", completions, VerificationSettings(workers=1), fields={}, progress=False,
        **{"restore_answer_line": True, **options},
    )  # fmt: skip


def kinds(grades: Grades) -> list[tuple[str, int, str]]:
    return [(verdict.problem_id, verdict.sample, str(verdict.kind)) for verdict in grades.verdicts]


def test_json_lines_and_parquet_grade_alike(tmp_path):
    write_jsonl(tmp_path / "c.jsonl", ROWS)
    records = [
        Completion(row["problem_id"], row.get("sample", 0), row["completion"], (1,), (2,), FinishReason.STOP)
        for row in ROWS
    ]
    write_records(tmp_path / "c.parquet", records, Completion)
    for name in ("c.jsonl", "c.parquet"):
        grades = grade_in(tmp_path, str(tmp_path / name))
        assert kinds(grades) == [("a", 0, "correct"), ("b", 7, "wrong")]
        assert (grades.counts["correct"], grades.counts["wrong"], grades.restored) == (1, 1, 0)


def test_a_column_of_the_problems_is_graded(tmp_path):
    assert kinds(grade_in(tmp_path, "draft")) == [("a", 0, "wrong"), ("b", 0, "correct")]
    with pytest.raises(DataError, match="'drafts' is neither a file nor a text column: problem 'a' has no such text"):
        grade_in(tmp_path, "drafts")


def test_only_solutions_without_a_marked_answer_get_their_answer_line_back(tmp_path):
    grades = grade_in(tmp_path, "solution")
    assert (grades.restored, grades.counts["correct"]) == (1, 2)
    assert grade_in(tmp_path, "solution", restore_answer_line=False).restored == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 3: not JSON (Expecting property name"),
        (b"[1]", "line 3: got list, expected an object"),
        (b'{"problem_id": "a", "completion": "\xff"}', "line 3: not UTF-8"),
        (b'{"problem_id": "a", "completion": "\\ud800"}', "line 3: \\ud800 is half of a surrogate pair"),
        (b'{"problem_id": "a"}', "line 3: has {'problem_id': 'a'}, expected problem_id, completion (text)"),
        (b'{"problem_id": "a", "completion": null}', "line 3: has {'problem_id': 'a', 'completion': None}, expected"),
        (b'{"problem_id": "a", "completion": "2", "sample": "x"}', "line 3: has {'problem_id'"),
        (b'{"problem_id": "a", "completion": NaN}', "line 3: has {'problem_id': 'a', 'completion': nan}, expected"),
        (b'{"problem_id": "a", "completion": "2", "sample": true}', "line 3: has {'problem_id'"),
    ],
)
def test_a_line_that_cannot_be_graded_is_named(line, message, tmp_path):
    write_jsonl(tmp_path / "c.jsonl", ROWS[:1])
    with (tmp_path / "c.jsonl").open("ab") as file:
        file.write(b"\n" + line + b"\n")  # the empty line counts, as in an editor
    with pytest.raises(DataError, match=re.escape(message)):
        grade_in(tmp_path, str(tmp_path / "c.jsonl"))


def test_a_sample_that_is_null_is_a_sample_of_its_own(tmp_path):
    write_jsonl(tmp_path / "c.jsonl", [{"problem_id": "a", "completion": text, "sample": None} for text in "12"])
    assert [completion.sample for completion in _read_completions(tmp_path / "c.jsonl")] == [0, 1]


def test_no_completion_at_all_is_an_error(tmp_path):
    (tmp_path / "c.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"c\.jsonl: 0 completions; give a file with one completion a line"):
        _read_completions(tmp_path / "c.jsonl")
