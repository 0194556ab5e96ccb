"""Every argument of TRL's `DPOConfig` and `DPOTrainer`, as docs/trl.md lists them: works as in TRL, or is refused.

An argument that the page does not name, because a new TRL has it, fails the first test.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.parallelism_config import ParallelismConfig
from peft import LoraConfig
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer
from tests.support.training import losses, make_preferences
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sage_dpo import SAGEConfig, SAGETrainer
from sage_dpo.errors import ConfigError

ROOT = Path(__file__).parents[2]
FIELDS = {field.name: field for field in dataclasses.fields(DPOConfig)}
PARAMETERS = [name for name in inspect.signature(DPOTrainer.__init__).parameters if name != "self"]
EVERYTHING = {"selector": "all", "keep_ratio": 1.0, "stratified": False}
COMMON = {
    "max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "bf16": False, "use_cpu": True,
    "gradient_checkpointing": False, "report_to": [], "logging_steps": 1, "disable_tqdm": True, "save_strategy": "no",
}  # fmt: skip

WORKS = {
    "losses": {
        "loss_type": ["robust", "discopop", "hinge", "sft"], "loss_weights": [0.5, 0.3, 0.2, 0.1], "beta": 0.3,
        "label_smoothing": 0.1, "discopop_tau": 0.2, "label_smoothing_factor": 0.1, "label_names": ["labels"],
        "average_tokens_across_devices": False,
    },
    "divergence": {
        "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3, "use_weighting": True,
        "disable_dropout": False,
    },
    "length": {"ld_alpha": 0.3, "precompute_ref_log_probs": True},
    "moving reference": {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5},
    "optimizer": {
        "optim": "adamw_torch", "learning_rate": 2e-3, "weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.95,
        "adam_epsilon": 1e-6, "max_grad_norm": 0.5, "lr_scheduler_type": "cosine_with_restarts", "warmup_steps": 1,
        "lr_scheduler_kwargs": {"num_cycles": 2}, "max_steps": 3,
    },
    "epochs": {
        "max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
        "output_dir": "elsewhere", "torch_empty_cache_steps": 1, "use_cache": True, "dataset_num_proc": 1,
        "remove_unused_columns": False,
    },
    "padding": {
        "pad_to_multiple_of": 16, "padding_free": True, "pad_token": "<|pad|>", "trust_remote_code": True,
        "model_init_kwargs": {"dtype": "float32"}, "include_num_input_tokens_seen": True,
    },
    "checkpointing": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "activations": {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}},
    "bfloat16": {"bf16": True, "use_cpu": True},
    "routers": {"router_aux_loss_coef": 0.1},
    "evaluation": {
        "eval_strategy": "steps", "eval_steps": 1, "eval_delay": 2, "eval_on_start": True, "eval_accumulation_steps": 1,
        "per_device_eval_batch_size": 3, "eval_do_concat_batches": False, "prediction_loss_only": True,
        "load_best_model_at_end": True, "metric_for_best_model": "eval_rewards/margins", "greater_is_better": True,
        "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "max_steps": 3,
    },
    "logs": {
        "logging_steps": 2, "logging_strategy": "steps", "logging_first_step": True, "report_to": "none",
        "disable_tqdm": True, "max_steps": 3,
    },
}  # fmt: skip
"""Arguments that give TRL's numbers, several in one run."""

NO_EFFECT = {
    "precompute_ref_batch_size": 2, "length_column_name": "size", "dataloader_num_workers": 1,
    "dataloader_prefetch_factor": 3, "dataloader_persistent_workers": True, "ignore_data_skip": True,
    "dataloader_multiprocessing_context": "spawn",
}  # fmt: skip

REFUSED = {
    "truncation_mode": "keep_end",
    "train_sampling_strategy": "sequential",
    "auto_find_batch_size": True,
    "enable_jit_checkpoint": True,
    "parallelism_config": ParallelismConfig(tp_size=2),
    "accelerator_config": {"split_batches": True},
}

HANDED_ON = {
    "dataloader_pin_memory": False, "dataloader_in_order": False, "optim_args": "a=1", "optim_target_modules": "all",
    "eval_use_gather_object": True, "batch_eval_metrics": True, "include_for_metrics": ["loss"], "bf16_full_eval": True,
    "resume_from_checkpoint": "x", "do_train": True, "do_eval": True, "do_predict": True, "log_level": "error",
    "log_level_replica": "error", "log_on_each_node": False, "run_name": "x", "project": "x", "debug": "",
    "save_on_each_node": True, "restore_callback_states_from_checkpoint": True, "skip_memory_metrics": False,
    "torch_compile_mode": "default", "full_determinism": False,
}  # fmt: skip

TESTED_BY = {
    "neftune_noise_alpha": "test_embedding_noise_is_as_strong_as_in_the_padded_batch",
    "max_length": "test_over_long_pairs_are_excluded_and_counted_never_cut",
    "seed": "test_two_runs_with_one_seed_are_equal_and_another_seed_differs",
    "data_seed": "test_data_seed_alone_changes_which_pairs_are_drawn",
    "dataloader_drop_last": "test_num_examples_are_pairs",
    "logging_nan_inf_filter": "test_a_loss_that_is_not_finite_ends_training_under_every_selector",
    "save_only_model": "test_a_checkpoint_without_the_state_of_sage_is_refused",
    "torch_compile": "test_compiled_layers_select_and_train_as_plain_ones_do",
    "torch_compile_backend": "test_compiled_layers_select_and_train_as_plain_ones_do",
    "train_dataset": "test_a_stream_to_train_on_is_its_first_rows",
}
"""What differs from TRL, and the test that shows how."""


def page() -> dict[str, str]:
    """The arguments that docs/trl.md names, each with its word."""
    rows = re.findall(r"(?m)^\| (`.*?`) \| ([\w ]+) \|", (ROOT / "docs" / "trl.md").read_text(encoding="utf-8"))
    return {name: word for names, word in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_page_names_every_argument_and_no_other():
    assert set(page()) == {*FIELDS, *PARAMETERS}


def test_every_argument_is_tested_as_the_page_says():
    words = {
        "works": {name for changes in WORKS.values() for name in changes} | WORKING_PARAMETERS,
        "no effect": set(NO_EFFECT),
        "refused": set(REFUSED),
        "handed on": set(HANDED_ON),
        "differs": set(TESTED_BY),
    }
    said = page()
    assert {word: {name for name in said if said[name] == word} for word in words} == words
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in TESTED_BY.values() if not any(f"def {name}(" in source for source in sources)] == []


@pytest.fixture(scope="module")
def router_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("routers")
    config = AutoConfig.for_model(
        "qwen2_moe", vocab_size=make_tiny_model().config.vocab_size, hidden_size=32, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=16, shared_expert_intermediate_size=16, pad_token_id=0, eos_token_id=4,
        output_router_logits=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def run(trainer_class, config_class, policy, folder, changes, **keywords):
    changes = {"output_dir": str(folder), **COMMON, **changes}
    if not Path(changes["output_dir"]).is_absolute():
        changes["output_dir"] = str(folder / changes["output_dir"])
    given = {"processing_class": make_tiny_tokenizer(), "train_dataset": make_preferences(8), **keywords}
    trainer = trainer_class(policy, args=config_class(**changes), **given)
    trainer.train()
    assert not any(folder.rglob("elsewhere/elsewhere"))
    return trainer


def numbers(trainer) -> dict[str, list[float]]:
    names = ("loss", "grad_norm", "eval_loss", "eval_rewards/margins", "num_input_tokens_seen", "learning_rate")
    rows = trainer.state.log_history
    return {name: [row[name] for row in rows if name in row] for name in names}


def assert_as_trl(ours, theirs, *, tolerance: float = 1e-3) -> None:
    mine, other = numbers(ours), numbers(theirs)
    assert len(mine["loss"]) > 1
    for name, values in other.items():
        np.testing.assert_allclose(mine[name], values, rtol=tolerance, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("group", WORKS)
def test_an_argument_that_works_gives_the_numbers_of_trl(group, policy_folder, router_folder, tmp_path):
    changes = WORKS[group]
    policy = router_folder if group == "routers" else policy_folder
    keywords = {"eval_dataset": make_preferences(6, seed=4)} if group == "evaluation" else {}
    ours = run(SAGETrainer, SAGEConfig, policy, tmp_path / "ours", {**EVERYTHING, **changes}, **keywords)
    theirs = run(DPOTrainer, DPOConfig, policy, tmp_path / "theirs", changes, **keywords)
    assert_as_trl(ours, theirs, tolerance=3e-2 if group == "bfloat16" else 1e-3)
    assert bool(numbers(ours)["eval_loss"]) == (group == "evaluation")
    best = [Path(str(t.state.best_model_checkpoint)).name for t in (ours, theirs)]
    assert best[0] == best[1]


def test_an_argument_without_effect_is_named_and_changes_nothing(policy_folder, tmp_path, caplog):
    plain = run(SAGETrainer, SAGEConfig, policy_folder, tmp_path / "plain", EVERYTHING)
    assert "without effect" not in caplog.text
    changed = run(SAGETrainer, SAGEConfig, policy_folder, tmp_path / "changed", {**EVERYTHING, **NO_EFFECT})
    assert losses(plain) == losses(changed)
    (message,) = [record.message for record in caplog.records if "without effect" in record.message]
    assert [name for name in NO_EFFECT if f"{name}: " not in message] == []


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_that_is_refused_is_named(name, tmp_path):
    with pytest.raises(ConfigError, match=name):
        SAGEConfig(str(tmp_path), bf16=False, use_cpu=True, **{name: REFUSED[name]})


@pytest.mark.parametrize("name", HANDED_ON)
def test_an_argument_that_is_handed_on_reaches_transformers_as_it_is(name, tmp_path):
    both = [
        getattr(kind(str(tmp_path), bf16=False, use_cpu=True, **{name: HANDED_ON[name]}), name)
        for kind in (SAGEConfig, DPOConfig)
    ]
    assert both[0] == both[1]


# -- DPOTrainer --------------------------------------------------------------------------------------------------------


class Counts(TrainerCallback):
    steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1


def optimizers(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)


def keywords_of(group: str, model) -> dict[str, object]:
    if group == "own reference":
        return {"ref_model": make_tiny_model(1), "data_collator": DataCollatorForPreference(pad_token_id=0)}
    if group == "own optimizer":
        return {"optimizers": optimizers(model), "callbacks": [Counts()]}
    if group == "adapter":
        return {"peft_config": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0)}
    metrics = lambda prediction: {"rows": float(len(prediction.predictions))}  # noqa: E731
    return {"eval_dataset": make_preferences(6, seed=4), "compute_metrics": metrics}


WORKING_PARAMETERS = {
    "model", "ref_model", "args", "data_collator", "eval_dataset", "processing_class", "compute_metrics", "callbacks",
    "optimizers", "peft_config",
}  # fmt: skip


@pytest.mark.parametrize("group", ["own reference", "own optimizer", "adapter", "metrics"])
def test_a_parameter_of_the_trainer_gives_the_numbers_of_trl(group, policy_folder, tmp_path):
    changes = {"eval_strategy": "steps", "eval_steps": 1} if group == "metrics" else {}
    trainers = []
    for kind, config, extra in ((SAGETrainer, SAGEConfig, EVERYTHING), (DPOTrainer, DPOConfig, {})):
        model = AutoModelForCausalLM.from_pretrained(policy_folder)
        folder = tmp_path / kind.__name__
        trainers.append(run(kind, config, model, folder, {**extra, **changes}, **keywords_of(group, model)))
    assert_as_trl(*trainers)
    if group == "own optimizer":
        counts = [next(c for c in t.callback_handler.callbacks if isinstance(c, Counts)).steps for t in trainers]
        assert counts == [2, 2]
    if group == "metrics":
        rows = [[row["eval_rows"] for row in t.state.log_history if "eval_rows" in row] for t in trainers]
        assert rows[0] == rows[1] != []


def test_the_trainer_takes_its_arguments_in_the_order_of_trl():
    ours = [name for name in inspect.signature(SAGETrainer.__init__).parameters if name != "self"]
    assert ours[: ours.index("positional")] == PARAMETERS[: ours.index("positional")]
