"""What a study tells while some of its runs are missing. The run folders are made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sage_dpo.costs import COSTS, Costs
from sage_dpo.errors import DataError, RunFolderError
from sage_dpo.run_folder import FIRST_POOL
from sage_dpo.storage import read_json, write_json, write_jsonl, write_text
from sage_dpo.studies import study
from sage_dpo.studies.config import load_study
from sage_dpo.studies.grid import expand
from sage_dpo.studies.study import run_study

RECIPE = {
    "name": "recipe",
    "problems": {"kind": "gym", "count": 24},
    "training": {"steps": 4},
    "arms": {"vanilla": {"train": False}, "sage": {}},
}
STUDY = {
    "name": "s",
    "title": "A study",
    "recipe": "recipe.yaml",
    "seeds": [1, 2],
    "set": {"evaluation.at_steps": [2]},
    "conditions": [{"name": "a"}, {"name": "b"}],
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(study, "execute", never)
    for name, values in (("recipe", RECIPE), ("study", STUDY)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return tmp_path / "study.yaml"


def complete(path: Path, condition: str, seed: int, **sage: Any) -> None:
    """Leave what a run leaves, with accuracy and costs from its seed: 0.1 times it, and 10 times as much."""
    row = {"average": 0.1 * seed, "suites": {"short": 0.1 * seed}, **dict.fromkeys(COSTS, 10.0 * seed)}
    half = {"average": 0.05 * seed, "suites": {"short": 0.05 * seed}, **dict.fromkeys(COSTS, 5.0 * seed)}
    arms = {
        "vanilla": {**row, "steps": 0, "at_steps": {}},
        "sage": {**row, "steps": 4, "at_steps": {"2": half}, **sage},
    }
    loaded = load_study(path)
    runs = expand(loaded, path.parent / loaded.recipe)
    run = next(run for run in runs if run.condition.name == condition and run.seed == seed)
    folder = run.folder(path.parent / "out")
    probes = [{"step": step, "probe/accuracy": 0.1 * seed} for step in (0, arms["sage"]["steps"])]
    write_jsonl(folder.arm("sage").metrics, probes)
    pool = {"info": {"costs": Costs(wall_s=3.0, flops=7.0).as_dict()}}
    write_text(folder.config, run.recipe)
    write_json(folder.summary, {"arms": arms})
    write_json(folder.manifest, {"versions": {"sage-dpo": str(seed)}, "stages": {FIRST_POOL: pool}})


def told(path: Path) -> dict[str, Any]:
    return read_json(run_study(path, output=path.parent / "out", report_only=True, progress=False) / "results.json")


def test_only_complete_seeds_are_told(path: Path) -> None:
    for condition, seed in (("b", 1), ("a", 2), ("b", 2)):
        complete(path, condition, seed)
    result = told(path)
    assert result["seeds"] == [2]
    assert result["arms"]["sage"]["average"] == [0.2]
    assert [row["arms"]["sage"]["average"] for row in result["conditions"]] == [[0.2]]
    assert result["comparisons"]["final"]["sage_minus_vanilla"]["values"] == [0.0]


def test_all_seeds_are_told_in_the_order_of_the_study(path: Path) -> None:
    for condition, seed in (("b", 2), ("a", 2), ("a", 1), ("b", 1)):
        complete(path, condition, seed)
    result = told(path)
    assert result["seeds"] == [1, 2]
    assert result["arms"]["sage"]["flops"] == [10.0, 20.0]


def test_steps_on_the_way_have_accuracy_and_costs(path: Path) -> None:
    for condition in ("a", "b"):
        complete(path, condition, 1)
    arms = told(path)["arms"]
    assert arms["sage"]["at_steps"] == {
        "2": {"average": [0.05], **{cost: [5.0] for cost in COSTS}},
        "4": {"average": [0.1], **{cost: [10.0] for cost in COSTS}},
    }
    assert arms["vanilla"]["at_steps"] == {}


def test_training_that_ended_by_itself_stays_what_it_was_then(path: Path) -> None:
    for condition in ("a", "b"):
        complete(path, condition, 1, steps=1, at_steps={})
        complete(path, condition, 2)
    sage = told(path)["arms"]["sage"]
    assert (sage["steps"], sage["stopped"]) == (4, [1, 4])
    assert sage["at_steps"]["2"]["average"] == [0.1, 0.1]
    assert sage["at_steps"]["4"]["flops"] == [10.0, 20.0]
    # seed 1 is probed after its step 1, seed 2 after step 4
    assert [point["step"] for point in sage["probe"]] == [0, 1, 4]
    assert [point["mean"] for point in sage["probe"]] == pytest.approx([0.15, 0.15, 0.15])


def test_the_best_probe_has_its_step_accuracy_and_costs_for_every_seed(path: Path) -> None:
    for seed, step in ((1, 2), (2, 4)):
        best = {"step": step, "probe_accuracy": 0.5, "average": 0.6, "suites": {"short": 0.6}}
        for condition in ("a", "b"):
            complete(path, condition, seed, best={**best, **dict.fromkeys(COSTS, 7.0 * seed)})
    arms = told(path)["arms"]
    assert arms["sage"]["best"] == {
        "step": [2, 4],
        "probe_accuracy": [0.5, 0.5],
        "average": [0.6, 0.6],
        "suites": {"short": [0.6, 0.6]},
        **{cost: [7.0, 14.0] for cost in COSTS},
    }
    assert "best" not in arms["vanilla"]


def test_without_any_run_there_is_nothing_to_tell(path: Path) -> None:
    with pytest.raises(DataError, match=r"no run of the study is complete in .*out; run `sage-dpo study` first"):
        told(path)


def test_half_a_seed_is_not_told(path: Path) -> None:
    complete(path, "a", 1)
    with pytest.raises(DataError, match=r"no seed of study 's' is complete in .*; run it again without --report-only"):
        told(path)


def test_runs_of_another_recipe_are_not_told_under_the_new_settings(path: Path) -> None:
    for condition in ("a", "b"):
        complete(path, condition, 1)
    path.write_text(yaml.safe_dump({**STUDY, "set": {**STUDY["set"], "training.learning_rate": 0.5}}), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"another recipe than the study now has \(changed: learning_rate: 0.5\)"):
        told(path)


def test_the_recipes_subject_is_compared_unless_the_study_has_its_own(path: Path) -> None:
    first, second = {**STUDY, "conditions": [{"name": "a"}]}, {"subject": "vanilla", "conditions": [{"name": "b"}]}
    for values, condition in ((first, "a"), ({**first, **second}, "b")):
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        complete(path, condition, 1)
        (difference,) = told(path)["comparisons"]["final"]
        assert difference == ("sage_minus_vanilla" if condition == "a" else "vanilla_minus_sage")
