"""Recipes as files: damaged, hostile or with secrets in them."""

from __future__ import annotations

import pickle
import re

import pytest

from sage_dpo.config import RunConfig, dump_config, load_config, parse_yaml, recorded_values, redact_text, validate
from sage_dpo.errors import ConfigError
from sage_dpo.training import SAGEConfig

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcde", "bcdef", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "it stands for more than 100,000 values; write it without aliases"),
        ("a: &a [*a]", "it stands for more than 100,000 values"),
        ("name: x\nname: y", "the key 'name' occurs twice at line 2, column 1"),
        ("training: {steps: 1, steps: 2}", "the key 'steps' occurs twice"),
        ("[" * 20_000, "nested too deeply"),
        ('name: "\\ud800"', "half of a surrogate pair in a text"),
        (f"seed: {'1' * 6000}", "Exceeds the limit (4300 digits)"),
        ("name: 2024-99-99", "month must be in 1..12"),
        ("{[1]: 2}", "found unhashable key"),
        ("name: !!python/object:os.system x", "could not determine a constructor"),
    ],
)
def test_yaml_that_is_none_is_one_line(text, message):
    with pytest.raises(ConfigError, match=f"^not valid YAML: .*{re.escape(message)}") as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_anchors_and_merges_that_people_write_still_work():
    text = "base: &b {x: 1, y: 2}\none: {<<: *b, x: 3}\ntwo: *b\n"
    assert parse_yaml(text) == {"base": {"x": 1, "y": 2}, "one": {"x": 3, "y": 2}, "two": {"x": 1, "y": 2}}


def test_a_recipe_may_begin_with_a_mark_but_must_be_utf_8(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\nproblems: {kind: gym}\n")
    assert load_config(path).name == "x"
    path.write_bytes(b"name: \xe9\n")
    with pytest.raises(ConfigError, match=r"r\.yaml is not UTF-8 \(.* at byte 6\); save it as UTF-8"):
        load_config(path)


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "-x", ""])
def test_a_runs_name_cannot_leave_its_folder(name):
    with pytest.raises(ConfigError, match="name: String should"):
        validate(RunConfig, {"name": name, "problems": {"kind": "gym"}})


SECRET_VALUES = ["hf_" + "a" * 20, "sk-" + "b" * 20]


def test_secrets_are_not_written_by_name_or_by_value(tmp_path):
    engine = {"kind": "server", "base_url": "http://me:pass@host:8000/v1", "model": "m", "api_key_env": "MY_KEY"}
    trainer = {"hub_token": "plain", "run_name": f"x {SECRET_VALUES[0]}", "pad_token": "<pad>"}
    values = {
        "name": "x",
        "problems": {"kind": "gym"},
        "rollouts": {"engine": engine},
        "training": {"trainer": trainer},
    }
    config = validate(RunConfig, values)
    text = dump_config(config)
    assert not any(secret in text for secret in ("plain", "pass@", SECRET_VALUES[0]))
    assert "hub_token: '***'" in text
    assert "base_url: http://***@host:8000/v1" in text
    assert "api_key_env: MY_KEY" in text
    assert "pad_token: <pad>" in text
    assert config.training.trainer["hub_token"] == "plain"  # the run itself has it
    assert redact_text(f"said {SECRET_VALUES[1]} and mine", "mine") == "said *** and ***"


def test_a_recipe_without_secrets_is_written_as_it_is():
    config = validate(RunConfig, {"name": "x", "problems": {"kind": "gym"}})
    assert recorded_values(config) == config.model_dump(mode="json")


def test_the_pickled_arguments_of_a_checkpoint_hold_no_token(tmp_path):
    arguments = SAGEConfig(output_dir=str(tmp_path), hub_token="plain-token", use_cpu=True, bf16=False, report_to=[])
    kept = pickle.dumps(arguments)
    assert b"plain-token" not in kept
    assert pickle.loads(kept).learning_rate == arguments.learning_rate
    assert arguments.hub_token == "plain-token"
