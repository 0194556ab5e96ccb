"""`SAGEConfig` takes its fields from the settings of a recipe."""

from __future__ import annotations

import dataclasses

import pytest
from transformers import HfArgumentParser
from trl import DPOConfig

from sage_dpo import SAGEConfig
from sage_dpo.config import PoolSettings, ScoringSettings, SelectorSettings
from sage_dpo.errors import ConfigError

SECTIONS = (SelectorSettings, PoolSettings, ScoringSettings)
FIELDS = {field.name: field for field in dataclasses.fields(SAGEConfig)}


def test_every_setting_is_a_field_with_its_default_and_help():
    names = [name for section in SECTIONS for name in section.model_fields]
    assert len(set(names)) == len(names)
    assert not set(names) & {field.name for field in dataclasses.fields(DPOConfig)}
    for section in SECTIONS:
        for name, setting in section.model_fields.items():
            assert FIELDS[name].default == setting.default
            assert FIELDS[name].metadata["help"] == setting.description
            assert f"    {name}: {setting.description}" in SAGEConfig.__doc__


def test_arguments_are_read_from_a_command_line(tmp_path):
    words = (
        f"--output_dir {tmp_path} --bf16 false --selector lowest_margin --keep_ratio 0.25 --margin implicit "
        "--implicit_beta 0.3 --use_curvature false --schedule_start 0.5 0.3 0.2 --schedule_end 0 0 1 --score_max_age 3"
    )
    (arguments,) = HfArgumentParser(SAGEConfig).parse_args_into_dataclasses(words.split())
    settings = arguments.selector_settings()
    assert (settings.selector, settings.keep_ratio, settings.implicit_beta) == ("lowest_margin", 0.25, 0.3)
    assert not settings.use_curvature
    assert arguments.pool_settings().schedule_start == (0.5, 0.3, 0.2)
    assert arguments.score_max_age == 3


@pytest.mark.parametrize(
    ("name", "value"), [("score_token_budget", 0), ("score_max_age", -1), ("easy_min", 0.0), ("margin", "reward")]
)
def test_a_value_out_of_range_is_refused(name, value, tmp_path):
    with pytest.raises(ConfigError, match=f"SAGEConfig.{name}"):
        SAGEConfig(output_dir=str(tmp_path), bf16=False, **{name: value})
