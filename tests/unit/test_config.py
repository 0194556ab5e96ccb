"""Recipes: what is accepted, and that every refusal names the key, the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sage_dpo.config import RunConfig, SelectorSettings, dump_config, load_config, validate
from sage_dpo.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
SERVER = {"kind": "server", "base_url": "http://localhost:8000/v1"}
BASE = {"name": "test", "problems": {"kind": "gym", "count": 8}}


def refused(values) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, values)
    return str(caught.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipes_are_valid(path):
    assert load_config(path).name


def test_dumped_configuration_loads_as_itself(tmp_path):
    config = validate(RunConfig, {**BASE, "arms": {"a": {"selection": {"keep_ratio": 0.4}}}})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_an_arm_changes_only_what_it_says():
    config = validate(RunConfig, {**BASE, "arms": {"all": {"selection": {"selector": "all", "keep_ratio": 1.0}}}})
    arm = config.for_arm("all")
    assert (arm.selection.selector, arm.selection.keep_ratio) == ("all", 1.0)
    assert arm.selection.model_copy(update={"selector": "sage", "keep_ratio": 0.5}) == config.selection
    assert arm.training == config.training


def test_overrides_reach_nested_keys(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(BASE))
    assert load_config(tmp_path / "r.yaml", {"training.steps": 3}).training.steps == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": "x"}, "unknown key 'nmae'; did you mean 'name'?"),
        ({"training": {"stesp": 3}}, "unknown key 'training.stesp'; did you mean 'steps'?"),
        ({"training": {"candidates_per_step": 64}}, "unknown key 'training.candidates_per_step'; set pairs_per_step"),
        ({"problems": {"kind": "gym", "cuont": 3}}, "did you mean 'count'?"),
        ({"problems": {"kind": "gym", "path": "x"}}, "unknown key 'problems.gym.path'"),
        ({"problems": {"kind": "gmy"}}, "'gmy'"),
        ({"selection": {"keep_ratio": 0.0}}, "selection.keep_ratio: Input should be greater than 0 (got 0.0)"),
        ({"selection": {"keep_ratio": 1.01}}, "less than or equal to 1 (got 1.01)"),
        ({"selection": {"margin": "reward"}}, "selection.margin"),
        ({"pool": {"hard_max": 0.8}}, "hard_max is 0.8, above easy_min 0.7"),
        ({"pool": {"schedule_start": [0.5, 0.2, 0.2], "schedule_end": [0, 0, 1]}}, "sum 0.9; expected"),
        ({"problems": None}, "add a `problems` section"),
        (
            {"problems": None, "pairs": {"kind": "fixed", "path": "p"}, "probe": {"kind": "held_out"}},
            "held_out, a part",
        ),
        ({"problems": {"kind": "held_out"}}, "'held_out'"),
        ({"training": {"probe_steps": 5}}, "there is no `probe` section"),
        ({"training": {"patience": 2}}, "patience is 2, counted in probes, but training.probe_steps is 0"),
        ({"evaluation": {"at_best": True}}, "at_best is on, but training.probe_steps is 0"),
        ({"rollouts": {"prompt_template": "no place"}}, "must contain '{problem}'"),
        ({"arms": {"a": {"selection": {"gama": 1}}}}, "unknown key 'arms.a.selection.gama'"),
        ({"name": "a/b"}, "name"),
        ({"seed": -1}, "seed"),
        ({"arms": {"../x": {}}}, "arms"),
        ({"arms": {"a": {"selction": {}}}}, "unknown key 'arms.a.selction'; did you mean 'selection'?"),
        ({"arms": {"a": {"training": {"probe_steps": 3}}}}, "there is no `probe` section"),
        ({"verification": {"soft_timeout_s": 20}}, "not below hard_timeout_s"),
        ({"policy": {"dtype": "bfloat16"}}, "round to nothing; set dtype to float32"),
        ({"rollouts": {"engine": {**SERVER, "base_url": "localhost:8000"}}}, "must begin with http:// or https://"),
        ({"rollouts": {"engine": {**SERVER, "base_url": []}}}, "an address, or a list of different ones"),
        ({"rollouts": {"engine": {**SERVER, "base_url": ["http://a", "http://a"]}}}, "a list of different ones"),
        ({"rollouts": {"engine": {**SERVER, "base_url": ["http://a", "http://a/v1/"]}}}, "a list of different ones"),
        *(
            ({"rollouts": {"engine": {**SERVER, "base_url": url}}}, "must be a host, a port if needed and a path")
            for url in ("http://", "http://:80", "http://a:b/v1", "http://a:99999", "http://a/v1?k=1", "http://a/v1 ")
        ),
    ],
)
def test_refusals_say_what_and_how_to_mend_it(change, message):
    assert message in refused({**BASE, **change})


def test_a_served_policy_is_refreshed_by_means_that_are_named():
    text = refused({**BASE, "rollouts": {"engine": SERVER}, "pool": {"refresh_steps": 5}})
    assert "refresh_steps is 5; set rollouts.engine.sync, or refresh_steps to 0" in text
    served = {**BASE, "rollouts": {"engine": {**SERVER, "sync": {"kind": "lora"}}}, "pool": {"refresh_steps": 5}}
    assert "policy.lora is none: there is no adapter; set sync.kind to reload" in refused(served)
    assert validate(RunConfig, {**served, "policy": {"lora": {}}}).pool.refresh_steps == 5


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match=r"not valid YAML(.|\n)*line 2"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds list, expected a mapping"):
        load_config(tmp_path / "list.yaml")


def test_all_problems_are_reported_at_once():
    text = refused({**BASE, "training": {"steps": 0}, "sed": 1})
    assert "training.steps" in text
    assert "did you mean 'seed'?" in text


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        SelectorSettings().keep_ratio = 0.1  # type: ignore[misc]


def test_numbers_with_an_exponent_are_numbers(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(BASE) + "training: {trainer: {weight_decay: 1e-2, run_name: 1e}}\n")
    assert load_config(tmp_path / "r.yaml").training.trainer == {"weight_decay": 0.01, "run_name": "1e"}
