"""The benchmarks' records and their files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.errors import ConfigError, DataError, SuiteSizeError
from sage_dpo.evaluation import BENCHMARKS, load_benchmark, suites

SIZES = {
    "gsm8k": 1319,
    "math500": 500,
    "minerva": 272,
    "gaokao2023en": 385,
    "olympiadbench": 675,
    "college_math": 2818,
    "amc23": 40,
    "aime24": 30,
}


def write(folder: Path, rows: list[Any], name: str = "aime24") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"a/{number}", "problem": f"p{number}", "answer": str(number), **fields}


def test_records_state_the_published_sizes() -> None:
    assert {name: benchmark.size for name, benchmark in BENCHMARKS.items()} == SIZES


@pytest.mark.parametrize("name", SIZES)
def test_real_files_load_whole(name: str, benchmark_data: Path) -> None:
    problems = load_benchmark(name, benchmark_data)
    assert len(problems) == len({problem.id for problem in problems}) == SIZES[name]
    assert all(problem.metadata["source"] == name for problem in problems)


def test_fields_and_order_are_kept(tmp_path: Path) -> None:
    write(tmp_path, [row(0, solution="s", level=3), "", *[row(n) for n in range(1, 30)]])
    problems = load_benchmark("aime24", tmp_path)
    assert [problem.id for problem in problems] == [f"a/{n}" for n in range(30)]
    assert (problems[0].solution, problems[0].metadata) == ("s", {"level": 3})
    assert problems[1].solution is None


@pytest.mark.parametrize("count", [0, 29, 31])
def test_another_size_is_an_error(count: int, tmp_path: Path) -> None:
    write(tmp_path, [row(n) for n in range(count)])
    with pytest.raises(SuiteSizeError, match=f"holds {count} problems, expected the 30 of aime24; fetch it again"):
        load_benchmark("aime24", tmp_path, limit=5)


def test_limit_takes_the_first_problems_of_a_whole_suite(tmp_path: Path) -> None:
    write(tmp_path, [row(n) for n in range(30)])
    assert [problem.id for problem in load_benchmark("aime24", tmp_path, limit=2)] == ["a/0", "a/1"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: got list, expected an object"),
        (
            {"id": "x", "question": "q", "answer": "1"},
            r"line 2: lacks problem, has \['answer', 'id', 'question'\]; expected id, problem, answer, or the pub",
        ),
        (row(1, answer=""), "line 2: problem 'a/1': field 'answer' is ''"),
        (row(0), "line 2: id 'a/0' occurs twice"),
    ],
)
def test_bad_lines_are_named(bad: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_benchmark("aime24", write(tmp_path, [row(0), bad]))


def test_missing_file_unknown_name_and_missing_hub_copy_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"aime24.jsonl does not exist; give the folder that holds it, or the publ"):
        load_benchmark("aime24", tmp_path)
    with pytest.raises(ConfigError, match="unknown benchmark 'aime25', expected one of gsm8k, "):
        load_benchmark("aime25", tmp_path)
    with pytest.raises(ConfigError, match=r"no hub copy of amc23 is pinned.*give a folder"):
        load_benchmark("amc23", None)


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "gsm8k",
            {"question": "1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"},
            ("gsm8k/test/0", "1 + 1?", "2", "It is <<1+1=2>>2."),
        ),
        (
            "math500",
            {
                "problem": "$x$?",
                "solution": "So \\boxed{3}.",
                "answer": "3",
                "level": 2,
                "unique_id": "test/a/{n}.json",
            },
            ("math500/test/a/0", "$x$?", "3", "So \\boxed{3}."),
        ),
    ],
)
def test_hub_copies_are_loaded_at_their_pinned_revision(monkeypatch, name, row, expected) -> None:
    """No hub can be reached in the tests: `load_dataset` is replaced, the rest is the real path."""
    asked = []

    def load_dataset(*names, **options):
        asked.append((names, options))
        return [
            {key: value.replace("{n}", str(n)) if key == "unique_id" else value for key, value in row.items()}
            for n in range(BENCHMARKS[name].size)
        ]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    first = load_benchmark(name, None)[0]
    assert (first.id, first.problem.strip(), first.answer, first.solution) == expected
    names, options = asked[0]
    assert names == (BENCHMARKS[name].hub_id, BENCHMARKS[name].hub_config)
    assert options["split"] == "test"
    assert len(options["revision"]) == 40


def test_a_hub_out_of_reach_is_one_error_with_the_remedy(monkeypatch) -> None:
    def load_dataset(*names, **options):
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub\nand more")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"gsm8k cannot be loaded from the hub: Couldn't reach .*; give a folder"):
        load_benchmark("gsm8k", None)


@pytest.mark.parametrize(
    ("name", "file", "row", "expected"),
    [
        ("gsm8k", "gsm8k/test.jsonl", {"question": "q", "answer": "1+1\n#### 2"}, ("gsm8k/test/0", "q", "2", "1+1")),
        (
            "gsm8k",
            "grade_school_math/data/test.jsonl",
            {"question": "q", "answer": "w\n#### 2"},
            ("gsm8k/test/0", "q", "2", "w"),
        ),
        (
            "math500",
            "prm800k/math_splits/test.jsonl",
            {"problem": "q", "solution": "\\boxed{1}, \\boxed{\\frac{1}{2}}", "unique_id": "test/algebra/7.json"},
            ("math500/test/algebra/7", "q", "\\frac{1}{2}", "\\boxed{1}, \\boxed{\\frac{1}{2}}"),
        ),
        (
            "minerva",
            "minerva_math/test.jsonl",
            {"problem": "q", "solution": "\\boxed{1.6}"},
            ("minerva/0", "q", "1.6", "\\boxed{1.6}"),
        ),
        (
            "gaokao2023en",
            "gaokao2023en/test.jsonl",
            {"question": "q", "answer": "$\\{x |\n x\\}$"},
            ("gaokao2023en/0", "q", "\\{x | x\\}", None),
        ),
        (
            "gaokao2023en",
            "gaokao2023en/test.jsonl",
            {"question": "q(D) 4Answer: A", "answer": ""},
            ("gaokao2023en/0", "q(D) 4", "A", None),
        ),
        (
            "olympiadbench",
            "olympiadbench/test.jsonl",
            {"id": 16, "question": "q", "final_answer": ["$69$,$84$"], "solution": ["s"]},
            ("olympiadbench/16", "q", "69,84", "s"),
        ),
        (
            "college_math",
            "college_math/test.jsonl",
            {"question": "q", "answer": "$\\$ 3$"},
            ("college_math/0", "q", "\\$ 3", None),
        ),
        ("amc23", "amc23/test.jsonl", {"id": 3, "problem": "q", "answer": 27.0}, ("amc23/3", "q", "27", None)),
        ("aime24", "aime24/test.jsonl", {"id": 60, "problem": "q", "answer": "025"}, ("aime24/60", "q", "025", None)),
    ],
)
def test_files_load_as_their_repositories_publish_them(name, file, row, expected, tmp_path, monkeypatch) -> None:
    """On the real files, 7 of 8 suites gave the same ids, problems and answers as ours (MATH500's was not there)."""
    monkeypatch.setattr(suites, "BENCHMARKS", {name: replace(BENCHMARKS[name], size=1)})
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(json.dumps(row))
    (problem,) = load_benchmark(name, tmp_path)
    assert (problem.id, problem.problem, problem.answer, problem.solution) == expected
