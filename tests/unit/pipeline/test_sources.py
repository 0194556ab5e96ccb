"""Problems and suites of a recipe: from the gym, from files, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage_dpo.config import EvaluationSettings, FileProblemSettings, GymProblemSettings, validate
from sage_dpo.errors import ConfigError
from sage_dpo.evaluation import BENCHMARKS
from sage_dpo.gym.suites import suites_of
from sage_dpo.gym.world import generate_problems
from sage_dpo.pipeline.sources import load_problem_source, load_suites, suite_names, suites_by_name
from sage_dpo.storage import write_jsonl

ROWS = [
    {"id": "a", "question": "1 + 1?", "answer": "2"},
    {"id": "b", "question": "1  + 1?", "answer": "2"},
    {"id": "c", "question": "2 + 2?", "answer": " "},
    {"id": "d", "question": "3 + 3?", "answer": "6"},
    {"id": "e", "question": "4 + 4?", "answer": "8"},
]


def evaluation(**suites: Any) -> EvaluationSettings:
    return validate(EvaluationSettings, {"suites": suites})


def test_gym_problems_are_generated_by_the_runs_seed() -> None:
    source = GymProblemSettings(kind="gym", count=5, split="probe")
    problems, excluded, digest = load_problem_source(source, seed=3)
    assert problems == generate_problems("probe", 5, seed=3)
    assert excluded == {}
    assert load_problem_source(source, seed=3)[2] == digest != load_problem_source(source, seed=4)[2]


def test_problems_of_a_file_are_deduplicated_counted_and_then_limited(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", ROWS)
    source = FileProblemSettings(kind="file", path=str(tmp_path / "p.jsonl"), fields={"problem": "question"}, limit=2)
    problems, excluded, digest = load_problem_source(source, seed=0)
    assert [problem.id for problem in problems] == ["a", "d"]
    assert excluded == {"empty_answer": 1, "duplicate": 1}
    write_jsonl(tmp_path / "p.jsonl", [*ROWS[:3], {**ROWS[3], "answer": "7"}])
    assert load_problem_source(source, seed=0)[2] != digest  # an answer that was mended is other data


def test_suites_are_loaded_under_their_names() -> None:
    suites = load_suites(evaluation(kind="gym", names=["short", "carries"]))
    assert {name: len(problems) for name, problems in suites.items()} == {"short": 200, "carries": 200}
    hard = load_suites(evaluation(kind="gym", names=["short"], track="hard"))
    assert hard["short"][0].id.startswith("gym-hard-short")
    assert load_suites(None) == {}


def test_all_means_every_suite_of_its_kind_and_unknown_names_are_refused() -> None:
    assert suite_names(evaluation(kind="gym", names="all")) == list(suites_of("standard"))
    assert suite_names(evaluation(kind="benchmarks", names="all")) == list(BENCHMARKS)
    with pytest.raises(ConfigError, match=r"unknown suites \['gsm8k'\], expected some of short"):
        suite_names(evaluation(kind="gym", names=["short", "gsm8k"]))


@pytest.mark.parametrize(
    ("names", "kind", "chosen"),
    [
        ("all", "benchmarks", "all"),
        ("gym", "gym", "all"),
        ("gym-hard", "gym", "all"),
        ("short,long", "gym", ["short", "long"]),
        ("gsm8k", "benchmarks", ["gsm8k"]),
        ("gsm8k,short", "benchmarks", ["gsm8k", "short"]),  # refused later, with the benchmarks' names
    ],
)
def test_suites_on_the_command_line_are_benchmarks_unless_all_are_the_gyms(names: str, kind: str, chosen: Any) -> None:
    settings = suites_by_name(names, Path("data"))
    assert (settings["kind"], settings["names"]) == (kind, chosen)
    assert settings.get("data") == (None if kind == "gym" else "data")


def test_any_file_of_problems_is_a_suite_of_its_own_name(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", ROWS)
    settings = suites_by_name(f"mine={tmp_path / 'p.jsonl'}", None, {"problem": "question"})
    assert [problem.id for problem in load_suites(evaluation(**settings))["mine"]] == ["a", "b", "d", "e"]
    settings["files"]["mine"]["limit"] = 2
    assert len(load_suites(evaluation(**settings))["mine"]) == 2
    assert suite_names(evaluation(**settings)) == ["mine"]


def test_a_suite_of_files_is_named_for_itself() -> None:
    with pytest.raises(ConfigError, match=r"the names \['gsm8k'\] mean something else; choose others"):
        suite_names(evaluation(kind="files", files={"gsm8k": {"path": "p.jsonl"}}))
    with pytest.raises(ConfigError, match="files"):
        evaluation(kind="files", files={"../x": {"path": "p.jsonl"}})
    with pytest.raises(ConfigError, match=r"--suites is 'a=p,gsm8k'; name files \(name=path\) or suites, not both"):
        suites_by_name("a=p,gsm8k", None)
    with pytest.raises(ConfigError, match="--field names columns of problem files; give them as --suites name=path"):
        suites_by_name("gsm8k", None, {"problem": "question"})
