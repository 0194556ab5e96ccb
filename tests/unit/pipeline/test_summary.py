"""`summary.json` from stages and results made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage_dpo.config import RunConfig, validate
from sage_dpo.costs import Costs
from sage_dpo.evaluation import EvaluationResult, SuiteResult
from sage_dpo.pipeline.summary import summarize
from sage_dpo.rollouts.engine import SamplingParams
from sage_dpo.run_folder import FIRST_POOL, RunFolder
from sage_dpo.storage import read_json, write_json

ARMS = {"base": {"train": False}, "sage": {}, "dpo_full": {}}
POOL = Costs(generated_tokens=5, wall_s=2.0, wall_breakdown={FIRST_POOL: 2.0}, flops=10.0)
HALF = Costs(train_tokens=50, flops=500.0)
TRAINED = Costs(100, 200, 50, 7, 30.0, {"refresh": 10.0, "training": 20.0, "probe": 4.0}, 1000.0, 64, 32)


def result(*right: float) -> EvaluationResult:
    """One suite of as many problems, each right so often; it took 3 seconds."""
    sampling = SamplingParams(1, 0.0, 1.0, max_new_tokens=8)
    return EvaluationResult({"short": SuiteResult("short", sampling, right, [], [], 3.0, False)})


def summary(folder: Path, results: dict[str, EvaluationResult] | None = None, **changes: Any) -> dict[str, Any]:
    values = {"name": "r", "problems": {"kind": "gym"}, "training": {"steps": 4}, "arms": ARMS, **changes}
    config, run = validate(RunConfig, values), RunFolder(folder)
    best = {"step": 3, "probe_accuracy": 0.75, "costs": HALF.as_dict()}
    trained = {"costs": TRAINED.as_dict(), "refreshes": 1, "steps": 4, "exclusions": {"over_long": 2}, "best": best}
    infos = {FIRST_POOL: {"costs": POOL.as_dict()}, **{run.arm(arm).stage: trained for arm in config.trained_arms}}
    write_json(run.manifest, {"stages": {name: {"seconds": 1.0, "info": info} for name, info in infos.items()}})
    found = {"base": result(0, 0), "sage": result(1, 1), "dpo_full": result(1, 0)} if results is None else results
    return summarize(config, run, found)


def test_an_arm_cost_what_its_training_and_the_first_pool_did(tmp_path: Path) -> None:
    arm = summary(tmp_path)["arms"]["sage"]
    assert Costs.from_dict(arm) == TRAINED + POOL + Costs(wall_breakdown={"evaluation": 3.0})
    assert arm["wall_s"] == 10 + 20 + 2  # neither the probe nor the suites
    assert (arm["average"], arm["suites"]) == (1.0, {"short": 1.0})
    assert (arm["steps"], arm["refreshes"], arm["exclusions"]) == (4, 1, {"over_long": 2})


def test_the_untuned_policy_cost_nothing_but_its_evaluation(tmp_path: Path) -> None:
    arm = summary(tmp_path)["arms"]["base"]
    assert Costs.from_dict(arm) == Costs(wall_breakdown={"evaluation": 3.0})
    assert (arm["average"], arm["steps"], arm["learning_rate"], arm["at_steps"]) == (0.0, 0, None, {})


def test_suites_on_the_way_have_the_costs_until_then(tmp_path: Path) -> None:
    milestone = RunFolder(tmp_path).arm("sage").milestone(2)
    write_json(milestone.costs, HALF.as_dict())
    write_json(milestone.result("short"), {"accuracy": 0.25})
    (RunFolder(tmp_path).arm("sage").milestone(3).root).mkdir()  # interrupted before its costs were written
    assert summary(tmp_path)["arms"]["sage"]["at_steps"] == {
        "2": {"average": 0.25, "suites": {"short": 0.25}, **(HALF + POOL).as_dict()}
    }


AT_BEST = {"probe": {"kind": "gym"}, "evaluation": {"at_best": True}, "training": {"steps": 4, "probe_steps": 1}}


def test_the_policy_of_the_best_probe_has_the_costs_until_then(tmp_path: Path) -> None:
    for arm in ("sage", "dpo_full"):
        write_json(RunFolder(tmp_path).arm(arm).best.result("short"), {"accuracy": 0.25})
    arms = summary(tmp_path, **AT_BEST)["arms"]
    then = {"step": 3, "probe_accuracy": 0.75, "average": 0.25, "suites": {"short": 0.25}, **(HALF + POOL).as_dict()}
    assert (arms["sage"]["best"], arms["base"]["best"]) == (then, None)
    assert summary(tmp_path)["arms"]["sage"]["best"] is None  # the suites were not asked for


def test_where_the_best_probe_is_the_last_its_suites_are_those_of_the_end(tmp_path: Path) -> None:
    summary(tmp_path, {})
    manifest = read_json(RunFolder(tmp_path).manifest)
    for stage in manifest["stages"].values():
        stage["info"]["steps"] = 3
    write_json(RunFolder(tmp_path).manifest, manifest)
    config = validate(RunConfig, {"name": "r", "problems": {"kind": "gym"}, "arms": {"sage": {}}, **AT_BEST})
    arm = summarize(config, RunFolder(tmp_path), {"sage": result(1, 0)})["arms"]["sage"]
    assert (arm["best"]["average"], arm["best"]["suites"]) == (0.5, {"short": 0.5})


def test_the_last_trained_arm_is_compared_with_every_other(tmp_path: Path) -> None:
    comparisons = summary(tmp_path)["comparisons"]
    assert list(comparisons) == ["dpo_full_minus_base", "dpo_full_minus_sage"]
    assert comparisons["dpo_full_minus_sage"]["mean"] == -0.5


def test_the_subject_that_the_recipe_declares_is_compared_instead(tmp_path: Path) -> None:
    comparisons = summary(tmp_path, subject="sage")["comparisons"]
    assert {name: entry["mean"] for name, entry in comparisons.items()} == {
        "sage_minus_base": 1.0,
        "sage_minus_dpo_full": 0.5,
    }


def test_without_suites_there_are_costs_and_no_accuracies(tmp_path: Path) -> None:
    told = summary(tmp_path, {}, evaluation=None)
    assert told["comparisons"] == told["intervals"] == {}
    assert (told["arms"]["sage"]["average"], told["arms"]["sage"]["kept_pairs"]) == (None, 32)


def test_intervals_of_equal_answers_are_points(tmp_path: Path) -> None:
    assert summary(tmp_path)["intervals"]["sage"] == {"average": [1.0, 1.0], "suites": {"short": [1.0, 1.0]}}


@pytest.mark.parametrize("subject", ["sgae", ""])
def test_a_subject_that_is_no_arm_is_refused(subject: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"subject is '.*', expected one of the arms: base, sage, dpo_full"):
        summary(tmp_path, subject=subject)
