"""A reference that moves during training: as in TRL, whoever moves it, and continued bit for bit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tests.support.tiny import make_tiny_tokenizer
from tests.support.training import losses, make_arguments, make_preferences
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.experimental.bema_for_ref_model import BEMACallback
from trl.experimental.bema_for_ref_model import DPOTrainer as BEMATrainer

from sage_dpo import SAGETrainer
from sage_dpo.errors import ConfigError
from sage_dpo.forward import as_completions, score_completions

SYNC = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.7}
EVERYTHING = {"selector": "all", "keep_ratio": 1.0, "stratified": False}


def make_trainer(policy, folder, data: Dataset | None = None, *, callbacks=(), lora=False, **changes) -> SAGETrainer:
    return SAGETrainer(
        policy,
        args=make_arguments(folder, **changes),
        train_dataset=make_preferences() if data is None else data,
        processing_class=make_tiny_tokenizer(),
        callbacks=list(callbacks),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
    )


def bema() -> BEMACallback:
    return BEMACallback(update_freq=2, update_ref_model=True, ref_model_update_freq=2, ref_model_update_after=1)


@pytest.mark.parametrize("mover", ["sync_ref_model", "bema"])
def test_losses_are_those_of_trl(mover, policy_folder, tmp_path):
    """One batch holds the whole data set, so that TRL trains on the same pairs."""
    data, changes = make_preferences(8), SYNC if mover == "sync_ref_model" else {}
    callbacks = {"sync_ref_model": list, "bema": lambda: [bema()]}[mover]
    size = {"max_steps": 6, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "save_strategy": "no"}
    ours = make_trainer(policy_folder, tmp_path / "a", data, callbacks=callbacks(), **EVERYTHING, **size, **changes)
    ours.train()
    arguments = DPOConfig(
        str(tmp_path / "b"), learning_rate=1e-3, bf16=False, use_cpu=True, gradient_checkpointing=False, report_to=[],
        logging_steps=1, disable_tqdm=True, **size, **changes,
    )  # fmt: skip
    theirs = (BEMATrainer if mover == "bema" else DPOTrainer)(
        policy_folder, args=arguments, train_dataset=data, processing_class=make_tiny_tokenizer(), callbacks=callbacks()
    )
    theirs.train()
    np.testing.assert_allclose(losses(ours), losses(theirs), rtol=1e-3)
    still = make_trainer(policy_folder, tmp_path / "c", data, **EVERYTHING, **size)
    still.train()
    assert np.abs(np.array(losses(still)) - losses(ours))[-1].min() > 1e-3  # the mover did something


@pytest.mark.parametrize("mover", ["sync_ref_model", "bema"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(mover, policy_folder, tmp_path):
    changes = SYNC if mover == "sync_ref_model" else {"margin": "implicit", "selector": "lowest_margin"}
    callbacks = {"sync_ref_model": list, "bema": lambda: [bema()]}[mover]
    whole = make_trainer(policy_folder, tmp_path, callbacks=callbacks(), **changes)
    whole.train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    resumed = make_trainer(policy_folder, tmp_path, callbacks=callbacks(), **changes)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert losses(whole) == losses(resumed)
    for mine, other in ((whole.model, resumed.model), (whole.ref_model, resumed.ref_model)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    assert whole.token_counts == resumed.token_counts


@pytest.mark.parametrize("lora", [False, True])
def test_any_move_is_noticed(lora, policy_folder, tmp_path):
    class MovesOneRow(TrainerCallback):
        """Changes little, in a way that no version counter of PyTorch shows."""

        def on_step_begin(self, args, state, control, model, ref_model, **kwargs):
            if state.global_step == 2:
                base = model.get_base_model() if ref_model is None else ref_model
                base.model.layers[0].mlp.down_proj.weight.data[3] += 0.5

    trainer = make_trainer(policy_folder, tmp_path, callbacks=[MovesOneRow()], lora=lora, max_steps=4)
    trainer.train()
    assert trainer._models.has_moved
    completions = as_completions(trainer.train_dataset[:])
    cached = trainer.stream.scorer.reference_logps(completions)
    if lora:
        with trainer.model.disable_adapter():
            now = score_completions(trainer.model, completions, token_budget=4096).logps
    else:
        now = score_completions(trainer.ref_model, completions, token_budget=4096).logps
    np.testing.assert_allclose(cached, now, rtol=1e-4)


def test_a_reference_that_is_not_kept_cannot_move(policy_folder, tmp_path):
    with pytest.raises(ConfigError, match="BEMACallback moves the reference, but precompute_ref_log_probs keeps none"):
        make_trainer(policy_folder, tmp_path, callbacks=[bema()], precompute_ref_log_probs=True)
    with pytest.raises(ValueError, match="`sync_ref_model=True` together with `precompute_ref_log_probs=True`"):
        make_trainer(policy_folder, tmp_path, precompute_ref_log_probs=True, **SYNC)
