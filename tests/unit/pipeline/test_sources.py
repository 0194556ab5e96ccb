"""Problems and suites of a recipe: from the gym, from files, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage_dpo.config import EvaluationSettings, FileProblemSettings, GymProblemSettings, RunConfig, validate
from sage_dpo.errors import ConfigError
from sage_dpo.evaluation import BENCHMARKS
from sage_dpo.everyday.suites import SUITES
from sage_dpo.everyday.world import generate_problems as everyday_problems
from sage_dpo.gym.suites import suites_of
from sage_dpo.gym.world import generate_problems
from sage_dpo.pipeline.sources import (
    drawn,
    load_problem_source,
    load_recipe_problems,
    load_suites,
    suite_names,
    suites_by_name,
)
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


MORE = [
    {"problem": "5 + 5?", "solution": "It is \\boxed{10}."},
    {"problem": "3 + 3?", "solution": "It is \\boxed{6}."},  # as "d" of the other file
    {"problem": "6 + 6?", "solution": "It is \\boxed{}."},
    {"problem": "7 + 7?", "solution": "It is \\boxed{14}."},
]


def several(folder: Path, **limits: int) -> dict[str, Any]:
    write_jsonl(folder / "p.jsonl", ROWS)
    write_jsonl(folder / "q.jsonl", MORE)
    files = {
        "first": {"path": str(folder / "p.jsonl"), "fields": {"problem": "question"}},
        "second": {"path": str(folder / "q.jsonl"), "fields": {"answer": "last_box(solution)"}},
    }
    for name, limit in limits.items():
        files[name]["limit"] = limit
    return {"kind": "files", "files": files}


def recipe(**sections: Any) -> RunConfig:
    return validate(RunConfig, {"name": "x", "problems": {"kind": "gym", "count": 9}, **sections})


def test_several_files_are_read_each_with_its_fields_and_mixed_by_the_seed(tmp_path: Path) -> None:
    loaded = load_recipe_problems(recipe(problems=several(tmp_path)))["train"]
    answers = {problem.id: problem.answer for problem in loaded.problems}
    assert answers == {"first/a": "2", "first/d": "6", "first/e": "8", "second/row-1": "10", "second/row-4": "14"}
    assert loaded.excluded == {"empty_answer": 2, "duplicate": 2}
    orders = [
        [
            problem.id
            for problem in load_recipe_problems(recipe(problems=several(tmp_path), seed=seed))["train"].problems
        ]
        for seed in range(8)
    ]
    assert all(sorted(order) == sorted(answers) for order in orders)
    assert len({tuple(order) for order in orders}) > 4
    limited = load_recipe_problems(recipe(problems=several(tmp_path, first=1, second=3)))["train"]
    assert {problem.id for problem in limited.problems} == {"first/a", "second/row-1", "second/row-2", "second/row-4"}
    kept = [problem.id for problem in loaded.problems if problem.id != "first/e"]
    assert [p.id for p in drawn([p for p in loaded.problems if p.id != "first/e"], 0)] == kept  # no other one moves


def test_held_out_problems_are_drawn_by_the_seed_and_not_trained_on(tmp_path: Path) -> None:
    everything = {problem.id for problem in load_recipe_problems(recipe())["train"].problems}
    probes = set()
    for seed in range(6):
        sections = load_recipe_problems(
            recipe(probe={"kind": "held_out", "count": 3}, problems=several(tmp_path), seed=seed)
        )
        train, probe = ({problem.id for problem in sections[name].problems} for name in ("train", "probe"))
        assert (len(train), len(probe), train & probe) == (2, 3, set())
        probes.add(frozenset(probe))
    assert len(probes) > 1
    gym = load_recipe_problems(recipe(probe={"kind": "held_out", "count": 4}))
    assert {problem.id for name in ("train", "probe") for problem in gym[name].problems} == everything
    with pytest.raises(ConfigError, match=r"probe\.count is 9, and there are 9 problems in all; lower it"):
        load_recipe_problems(recipe(probe={"kind": "held_out", "count": 9}))


def test_everyday_questions_are_generated_by_the_runs_seed_and_are_suites() -> None:
    everyday = recipe(
        problems={"kind": "everyday", "count": 9}, probe={"kind": "everyday", "split": "probe", "count": 5}
    )
    loaded = load_recipe_problems(everyday)
    assert loaded["train"].problems == everyday_problems("train", 9, seed=0)
    assert loaded["probe"].problems == everyday_problems("probe", 5, seed=0)
    suites = load_suites(evaluation(kind="everyday"))
    assert {name: len(problems) for name, problems in suites.items()} == {
        name: suite.expected_size for name, suite in SUITES.items()
    }
    with pytest.raises(ConfigError, match=r"unknown suites \['short'\], expected some of sums"):
        suite_names(evaluation(kind="everyday", names=["short", "harder"]))


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
        ("everyday", "everyday", "all"),
        ("ages,harder", "everyday", ["ages", "harder"]),
        ("gsm8k", "benchmarks", ["gsm8k"]),
        ("gsm8k,short", "benchmarks", ["gsm8k", "short"]),  # refused later, with the benchmarks' names
    ],
)
def test_suites_on_the_command_line_are_benchmarks_unless_all_are_of_one_world(
    names: str, kind: str, chosen: Any
) -> None:
    settings = suites_by_name(names, Path("data"))
    assert (settings["kind"], settings["names"]) == (kind, chosen)
    assert settings.get("data") == ("data" if kind == "benchmarks" else None)


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
