"""A study becomes recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sage_dpo.config import load_config, validate
from sage_dpo.core.selection import candidate_count
from sage_dpo.errors import ConfigError
from sage_dpo.studies.config import StudyConfig, load_study
from sage_dpo.studies.grid import StudyRun, expand

STUDIES = sorted((Path(__file__).parents[3] / "recipes" / "studies").glob("*.yaml"))
RECIPE = {
    "problems": {"kind": "gym", "count": 24},
    "training": {"steps": 4, "learning_rate": 1e-4},
    "name": "recipe",
    "arms": {
        "vanilla": {"train": False},
        "dpo_full": {"selection": {"selector": "all", "keep_ratio": 1.0}},
        "sage": {"training": {"learning_rate": 2e-4}},
    },
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
    return path


def grid(recipe: Path, **changes: Any) -> list[StudyRun]:
    values = {"name": "s", "title": "t", "recipe": recipe.name, "seeds": [0], **changes}
    return expand(validate(StudyConfig, values), recipe)


def test_runs_are_conditions_by_seeds_whole_seeds_first(recipe: Path) -> None:
    runs = grid(recipe, seeds=[3, 1], conditions=[{"name": "a"}, {"name": "b"}])
    assert [run.id for run in runs] == ["a/seed-3", "b/seed-3", "a/seed-1", "b/seed-1"]
    assert [run.config.seed for run in runs] == [3, 3, 1, 1]


def test_a_conditions_overrides_win_over_the_studys_and_those_over_the_recipe(recipe: Path) -> None:
    conditions = [{"name": "a", "set": {"training.steps": 9}}, {"name": "b"}]
    first, second = grid(recipe, set={"training.steps": 7, "problems.count": 30}, conditions=conditions)
    assert (first.config.training.steps, second.config.training.steps) == (9, 7)
    assert {run.config.problems.count for run in (first, second)} == {30}  # type: ignore[union-attr]
    assert first.config.training.learning_rate == 1e-4


def test_without_a_sweep_every_arm_stems_from_itself(recipe: Path) -> None:
    (run,) = grid(recipe)
    assert run.arms == {name: (name, None) for name in ("vanilla", "dpo_full", "sage")}
    assert run.config.arms == load_config(recipe).arms


def test_a_swept_arm_becomes_one_arm_a_value(recipe: Path) -> None:
    (run,) = grid(recipe, sweep={"key": "selection.keep_ratio", "values": [0.25, 0.5], "arms": ["sage"]})
    assert run.arms == {
        "vanilla": ("vanilla", None),
        "dpo_full": ("dpo_full", None),
        "sage@0.25": ("sage", 0.25),
        "sage@0.5": ("sage", 0.5),
    }
    assert [run.config.for_arm(f"sage@{value}").selection.keep_ratio for value in ("0.25", "0.5")] == [0.25, 0.5]
    assert run.config.for_arm("sage@0.5").training.learning_rate == 2e-4


def test_small_and_whole_numbers_are_swept_too(recipe: Path) -> None:
    (rates,) = grid(recipe, sweep={"key": "training.learning_rate", "values": [2.5e-5], "arms": ["sage"]})
    assert rates.config.for_arm("sage@2.5e-05").training.learning_rate == 2.5e-5
    (steps,) = grid(recipe, sweep={"key": "training.pairs_per_step", "values": [0x20], "arms": ["sage"]})
    assert steps.config.for_arm("sage@32").training.pairs_per_step == 32


def test_linked_keys_go_along_with_the_swept_one(recipe: Path) -> None:
    sweep = {"key": "selection.keep_ratio", "values": [0.25, 0.5], "arms": ["sage"]}
    (run,) = grid(recipe, sweep={**sweep, "linked": {"training.pairs_per_step": [16, 32]}})
    arms = [run.config.for_arm(f"sage@{value}") for value in ("0.25", "0.5")]
    assert [(arm.selection.keep_ratio, arm.training.pairs_per_step) for arm in arms] == [(0.25, 16), (0.5, 32)]
    with pytest.raises(ConfigError, match=r"'training.pairs_per_step': 1\} values for 2 of"):
        grid(recipe, sweep={**sweep, "linked": {"training.pairs_per_step": [16]}})


def test_the_study_of_the_keep_ratio_offers_every_arm_as_many_candidates() -> None:
    path = STUDIES[0].with_name("keep-ratio.yaml")
    for run in expand(load_study(path), path.parent / load_study(path).recipe):
        arms = [run.config.for_arm(arm) for arm in run.arms]
        offered = [candidate_count(arm.training.pairs_per_step, arm.selection.keep_ratio) for arm in arms]
        assert offered == [60, 64, 64, 64, 64]


def test_arms_are_added_changed_and_removed(recipe: Path) -> None:
    arms = {
        "dpo_full": None,
        "sage": {"selection": {"keep_ratio": 0.25}},
        "random": {"selection": {"selector": "random"}},
    }
    (run,) = grid(recipe, arms=arms)
    assert list(run.config.arms) == ["vanilla", "sage", "random"]
    sage = run.config.for_arm("sage")
    assert (sage.selection.keep_ratio, sage.training.learning_rate) == (0.25, 2e-4)


def test_an_arm_keeps_what_the_study_does_not_change(recipe: Path) -> None:
    # an arm called dpo_full must not become SAGE because the study gives it another learning rate
    changes = {"dpo_full": {"training": {"learning_rate": 5e-5}}, "vanilla": {"pool": {"stratified": False}}}
    (run,) = grid(recipe, arms=changes)
    assert run.config.for_arm("dpo_full").selection.selector == "all"
    assert run.config.for_arm("dpo_full").training.learning_rate == 5e-5
    assert not run.config.arms["vanilla"].train


def test_a_condition_may_have_arms_of_its_own(recipe: Path) -> None:
    runs = grid(recipe, conditions=[{"name": "a", "arms": ["sage"]}, {"name": "b"}])
    assert [list(run.config.arms) for run in runs] == [["sage"], ["vanilla", "dpo_full", "sage"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"conditions": [{"name": "a", "arms": ["sgae"]}]},
        {"sweep": {"key": "training.beta", "values": [0.1], "arms": ["sgae"]}},
    ],
)
def test_unknown_arms_are_told_the_known_ones(changes: dict[str, Any], recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"\['sgae'\]; known arms: vanilla, dpo_full, sage"):
        grid(recipe, **changes)


def test_a_removed_arm_is_not_known_any_more(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"\['dpo_full'\]; known arms: vanilla, sage$"):
        grid(recipe, arms={"dpo_full": None}, conditions=[{"name": "a", "arms": ["dpo_full"]}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": {"training.stepz": 3}}, "unknown key 'training.stepz'; did you mean 'steps'"),
        ({"arms": {"sage": {"selection": {"keep_ratio": 2}}}}, "keep_ratio"),
        ({"sweep": {"key": "training.betta", "values": [1], "arms": ["sage"]}}, "betta.*did you mean 'beta'"),
    ],
)
def test_keys_that_the_recipe_does_not_know_are_refused(changes: dict[str, Any], message: str, recipe: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(recipe, **changes)


def test_every_name_a_condition_may_have_makes_a_valid_recipe(recipe: Path) -> None:
    (run,) = grid(recipe, conditions=[{"name": "a-b_c.5"}])
    assert run.id == "a-b_c.5/seed-0"


def test_the_recipe_as_text_is_the_runs_configuration(recipe: Path, tmp_path: Path) -> None:
    (run,) = grid(recipe, sweep={"key": "pool.refresh_steps", "values": [0, 2], "arms": ["sage"]})
    path = tmp_path / "written.yaml"
    path.write_text(run.recipe, encoding="utf-8")
    assert load_config(path) == run.config


def test_every_run_has_a_subject_of_its_own_arms(recipe: Path) -> None:
    conditions = [{"name": "a"}, {"name": "b", "arms": ["vanilla", "dpo_full"]}]
    assert [run.config.subject_arm for run in grid(recipe, seeds=[0], conditions=conditions)] == ["sage", "dpo_full"]
    assert {run.config.subject_arm for run in grid(recipe, subject="dpo_full")} == {"dpo_full"}
    assert {run.config.subject_arm for run in grid(recipe, set={"subject": "vanilla"})} == {"vanilla"}


# What no run would have is refused before any run

CONDITIONS = [{"name": "a", "arms": ["vanilla", "sage"]}, {"name": "b", "set": {"training.steps": 2}}]
PROBED = {"training.probe_steps": 2, "probe": {"kind": "gym", "split": "probe", "count": 8}}
AT_BEST = {**PROBED, "evaluation.at_best": True}
SWEEP = {"key": "selection.keep_ratio", "values": [0.5], "arms": ["sage"]}


def comparison(label: str, **changes: Any) -> dict[str, Any]:
    return {"comparisons": {"final": {"ours": label, "base": "vanilla"}}, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "sgae"}, "the subject 'sgae' is in no run; known arms: dpo_full, sage, vanilla$"),
        (comparison("sgae"), "comparison 'final': arm 'sgae' is in no run; known arms: dpo_full, sage, vanilla$"),
        (comparison("sage", sweep=SWEEP), "arm 'sage' is in no run; known arms: dpo_full, sage@0.5, vanilla$"),
        (comparison("c/sage", conditions=CONDITIONS), "arm 'c/sage' is in no run"),
        (comparison("a/dpo_full", conditions=CONDITIONS), "arm 'a/dpo_full' is in no run"),
        (comparison("sage:3"), r"'sage:3' will not be evaluated, 'sage' is at steps \[4\]; add the step"),
        (comparison("sage:9", set={"evaluation.at_steps": [1, 9]}), r"'sage' is at steps \[1, 4\]"),
        (comparison("sage:best"), "'sage:best' will not be evaluated; switch on evaluation.at_best"),
        (comparison("vanilla:best", set=AT_BEST), "'vanilla:best' will not be evaluated; .* an arm that is trained"),
        (
            comparison("sage:best", set=PROBED, conditions=[{"name": "a", "set": AT_BEST}, {"name": "b"}]),
            "'sage:best' will not be evaluated",
        ),
        (comparison("sage", set={"evaluation.at_best": True}), "at_best is on, but training.probe_steps is 0"),
        (comparison("sage:x"), "'sage:x' will not be evaluated"),
        (comparison("vanilla:0"), r"'vanilla' is at steps \[\]"),
        # in condition a it ends at step 4, in condition b at step 2
        (comparison("sage:4", conditions=CONDITIONS), r"'sage' is at steps \[\]"),
        (comparison("sage", set={"evaluation": None}), "needs the suites, but the recipe's evaluation is switched off"),
        (
            {"analyses": ["time_to_quality"], "reference": "dpo"},
            "reference is 'dpo', expected .*'base': dpo_full, sage$",
        ),
        ({"analyses": ["gradient_noise"], "reference": "vanilla"}, "reference is 'vanilla', expected a trained arm"),
        (
            {"analyses": ["gradient_noise"], "reference": "dpo_full", "conditions": CONDITIONS},
            "reference is 'dpo_full', .* condition 'a': sage$",
        ),
        ({"analyses": ["time_to_quality"]}, "reference is None, expected a trained arm"),
        ({"analyses": ["time_to_quality"], "reference": "sage"}, "need training.probe_steps > 0"),
        ({"analyses": ["tuning"], "sweep": SWEEP}, "need training.probe_steps > 0"),
        ({"analyses": ["tuning"], "set": PROBED}, "tuning needs a sweep"),
        (
            {"analyses": ["selection_quality"], "set": {"pairs": {"kind": "fixed", "path": "x"}}},
            "selection_quality needs gym problems and on-policy pairs",
        ),
        ({"analyses": ["drift"], "set": {"pairs": {"kind": "fixed", "path": "x"}}}, "drift needs on-policy pairs"),
        (
            {"analyses": ["selection_quality"], "set": {"problems": {"kind": "file", "path": "x.jsonl"}}},
            "selection_quality needs gym problems and on-policy pairs",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(changes: dict[str, Any], message: str, recipe: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(recipe, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        comparison("sage:4"),
        comparison("sage:2", set={"evaluation.at_steps": [2]}),
        comparison("a/sage:4", conditions=CONDITIONS),
        comparison("sage:2", set={"evaluation.at_steps": [2]}, conditions=CONDITIONS),
        comparison("sage:best", set=AT_BEST),
        comparison("a/sage:best", set=PROBED, conditions=[{"name": "a", "set": AT_BEST}, {"name": "b"}]),
        comparison("b/dpo_full", conditions=CONDITIONS),
        comparison("sage@0.5", sweep=SWEEP),
        {
            "analyses": ["time_to_quality", "tuning", "gradient_noise", "selection_quality"],
            "reference": "dpo_full",
            "set": PROBED,
            "sweep": SWEEP,
        },
        {"analyses": ["selection_quality"], "reference": "nobody"},
    ],
)
def test_what_the_runs_will_have_is_accepted(changes: dict[str, Any], recipe: Path) -> None:
    assert grid(recipe, **changes)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_shipped_studies_are_valid(path: Path) -> None:
    study = load_study(path)
    assert len(expand(study, path.parent / study.recipe)) == len(study.seeds) * len(study.conditions)
