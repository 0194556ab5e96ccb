"""From a recipe's policy section to a model and a tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer
from transformers.integrations import deepspeed as zero

from sage_dpo.config import LoraSettings, PolicySettings
from sage_dpo.errors import ConfigError
from sage_dpo.gym.policy import bundled_policy_path
from sage_dpo.pipeline.policies import (
    count_parameters,
    load_model,
    load_tokenizer,
    load_trained,
    load_untrained,
    lora_config,
    model_arguments,
    policy_path,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tiny_model().save_pretrained(tmp_path)
    make_tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_gym_names_are_folders_and_other_paths_stay() -> None:
    assert policy_path("gym:S") == str(bundled_policy_path("S"))
    assert policy_path("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"
    with pytest.raises(ConfigError, match="no bundled gym policy 'X'"):
        policy_path("gym:X")


def test_a_saved_policy_is_loaded_in_the_recipes_dtype(folder: Path) -> None:
    model = load_model(PolicySettings(path=str(folder), dtype="float32"))
    assert model.num_parameters() == make_tiny_model().num_parameters()
    assert str(model.dtype) == "torch.float32"


class Zero3:
    """Settings of DeepSpeed, as transformers finds them while there are arguments of a training."""

    def is_zero3(self) -> bool:
        return True


def test_policies_are_loaded_whole_beside_one_that_trains_under_zero_3(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PolicySettings(path=str(folder), dtype="float32")
    adapted = settings.model_copy(update={"lora": LoraSettings(r=2)})
    load_untrained(adapted, seed=0).save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr(zero, "_hf_deepspeed_config_weak_ref", None)
    training = Zero3()
    zero.set_hf_deepspeed_config(training)
    size = make_tiny_model().num_parameters()
    assert load_model(settings).num_parameters() == load_trained(settings, folder).num_parameters() == size
    assert load_untrained(adapted, seed=0).num_parameters() > size
    assert load_trained(adapted, tmp_path / "adapter").num_parameters() > size
    assert count_parameters(settings) == size
    with pytest.raises(ConfigError):
        load_model(PolicySettings(path=str(tmp_path / "absent")))
    assert zero.is_deepspeed_zero3_enabled()  # the training goes on with its own


def test_a_tokenizer_without_padding_pads_with_its_end_token(folder: Path) -> None:
    assert load_tokenizer(PolicySettings(path=str(folder))).pad_token == "<|pad|>"
    tokenizer = make_tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(PolicySettings(path=str(folder))).pad_token == "<|end|>"


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_folder_without_a_policy_is_named_with_what_serves(load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy folder .* cannot be loaded: .*; give a folder saved with") as caught:
        load(PolicySettings(path=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_only_what_the_recipe_says_is_passed_on() -> None:
    default = {"dtype": PolicySettings(path="x").dtype, "revision": "main", "use_safetensors": True}
    assert model_arguments(PolicySettings(path="x")) == default
    given = PolicySettings(path="x", revision="abc", attn_implementation="sdpa")
    assert model_arguments(given) == default | {"dtype": given.dtype, "revision": "abc", "attn_implementation": "sdpa"}


def test_lora_settings_are_pefts() -> None:
    assert lora_config(None) is None
    peft = lora_config(LoraSettings(r=3, alpha=5, dropout=0.1))
    assert (peft.r, peft.lora_alpha, peft.lora_dropout, peft.task_type) == (3, 5, 0.1, "CAUSAL_LM")
