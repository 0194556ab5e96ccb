"""What a TRL script may ask of `SAGETrainer`: epochs, data of any kind, other losses, resuming with other arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer
from tests.support.training import losses, make_arguments, make_preferences
from transformers import BitsAndBytesConfig, TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sage_dpo import SAGETrainer
from sage_dpo.errors import ConfigError, DataError, EmptyPoolError, RunFolderError

EVERYTHING = {"selector": "all", "keep_ratio": 1.0, "stratified": False, "save_strategy": "no"}


def make_trainer(policy, folder, data=None, *, keywords=None, **changes) -> SAGETrainer:
    return SAGETrainer(
        policy,
        args=make_arguments(folder, **changes),
        train_dataset=make_preferences() if data is None else data,
        processing_class=make_tiny_tokenizer(),
        **(keywords or {}),
    )


def losses_of_trl(policy, folder, data, **changes) -> list[tuple[float, float]]:
    arguments = DPOConfig(
        str(folder), learning_rate=1e-3, bf16=False, use_cpu=True, gradient_checkpointing=False, report_to=[],
        logging_steps=1, disable_tqdm=True, save_strategy="no", per_device_train_batch_size=len(data), **changes,
    )  # fmt: skip
    trainer = DPOTrainer(policy, args=arguments, train_dataset=data, processing_class=make_tiny_tokenizer())
    trainer.train()
    return losses(trainer)


def column(trainer, name="chosen_ids"):
    return trainer.stream.pairs[name][:]


# -- epochs and loaders ------------------------------------------------------------------------------------------------


def test_an_epoch_ends_when_all_pairs_were_candidates_whatever_max_steps_is(policy_folder, tmp_path):
    # 40 pairs, 16 candidates and 8 kept pairs a step: 3 steps an epoch
    class SeesBatches(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader, **kwargs):
            self.rows = len(next(iter(train_dataloader))["input_ids"])

    trainer = make_trainer(
        policy_folder, tmp_path, max_steps=7, eval_strategy="epoch", save_strategy="epoch",
        keywords={"eval_dataset": make_preferences(8, seed=5), "callbacks": [callback := SeesBatches()]},
    )  # fmt: skip
    trainer.train()
    evaluated = [(row["step"], row["epoch"]) for row in trainer.state.log_history if "eval_loss" in row]
    assert evaluated == [(3, 1.0), (6, 2.0), (7, pytest.approx(7 / 3))]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (3, 6, 7)]
    final = trainer.state.log_history[-1]
    speeds = final["train_samples_per_second"], final["train_steps_per_second"]
    assert speeds[0] / speeds[1] == pytest.approx(8, rel=0.02)  # pairs trained on per step
    assert callback.rows == 8  # 4 pairs


def test_num_examples_are_pairs(policy_folder, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path, max_steps=-1, num_train_epochs=2, dataloader_drop_last=True)
    trainer._loop_asks = True
    loader = trainer.get_train_dataloader()
    epochs, steps, examples, samples, per_step, _, max_steps = trainer.set_initial_training_values(trainer.args, loader)
    assert (epochs, steps, examples, samples, per_step, max_steps) == (2, 2, 40, 32, 8, 4)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == batch["completion_mask"].shape[0] == 8  # 4 pairs, as TRL gives them


def test_data_seed_alone_changes_which_pairs_are_drawn(policy_folder, tmp_path):
    first, other = (make_trainer(policy_folder, tmp_path / str(n), data_seed=n, max_steps=1) for n in (1, 2))
    first.train()
    other.train()
    assert losses(first) != losses(other)


def test_arguments_without_effect_are_named_once(policy_folder, tmp_path, caplog):
    changes = {"dataloader_num_workers": 1, "train_sampling_strategy": "group_by_length", "ignore_data_skip": True}
    changes |= {"label_smoothing": 0.1}  # with the sigmoid loss
    make_trainer(policy_folder, tmp_path, **changes)
    (message,) = [record.message for record in caplog.records if "without effect" in record.message]
    assert all(f"{name}: " in message for name in changes)
    with pytest.raises(ConfigError, match="train_sampling_strategy is 'sequential'"):
        make_arguments(tmp_path, train_sampling_strategy="sequential")


def test_label_smoothing_is_not_named_where_the_loss_reads_it(policy_folder, tmp_path, caplog):
    make_trainer(policy_folder, tmp_path, loss_type="robust", label_smoothing=0.1)
    assert "label_smoothing" not in caplog.text


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"loss_type": ["sft"]}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.8, 0.3]}, {"ld_alpha": 0.4}],
    ids=str,
)
def test_accumulated_losses_are_those_of_one_batch_of_trl(changes, policy_folder, tmp_path):
    data = make_preferences(8)
    trainer = make_trainer(
        policy_folder, tmp_path / "a", data, max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=4,
        **EVERYTHING, **changes,
    )  # fmt: skip
    trainer.train()
    theirs = losses_of_trl(policy_folder, tmp_path / "b", data, max_steps=3, **changes)
    np.testing.assert_allclose(losses(trainer), theirs, rtol=1e-3)


def test_ld_alpha_with_a_reference_that_is_not_kept(policy_folder, tmp_path):
    data, changes = make_preferences(8), {"ld_alpha": 0.4, "max_steps": 2, "precompute_ref_log_probs": True}
    trainer = make_trainer(policy_folder, tmp_path / "a", data, gradient_accumulation_steps=2, **EVERYTHING, **changes)
    trainer.train()
    theirs = losses_of_trl(policy_folder, tmp_path / "b", data, **changes)
    np.testing.assert_allclose(losses(trainer), theirs, rtol=1e-3)


def test_losses_that_compare_the_pairs_of_a_batch_are_not_grouped_by_length(tmp_path):
    sizes = {"keep": 8, "eos_token_id": 4, "processes": 1, "process": 0}
    grouped = {
        name: make_arguments(tmp_path, loss_type=[name]).stream_settings(**sizes).groups_by_length
        for name in ("sigmoid", "aot", "aot_unpaired")
    }
    assert grouped == {"sigmoid": True, "aot": False, "aot_unpaired": False}


# -- data --------------------------------------------------------------------------------------------------------------


def test_a_stream_to_train_on_is_its_first_rows(policy_folder, tmp_path):
    data = make_preferences(60)
    streamed = make_trainer(policy_folder, tmp_path / "a", data.to_iterable_dataset(num_shards=3), max_steps=3)
    first = make_trainer(policy_folder, tmp_path / "b", data.select(range(3 * 16)), max_steps=3)
    assert column(streamed) == column(first)
    streamed.train()
    first.train()
    assert losses(streamed) == losses(first)
    with pytest.raises(ConfigError, match="train_dataset is a stream, and max_steps is not set"):
        make_trainer(policy_folder, tmp_path, data.to_iterable_dataset(), max_steps=-1)
    with pytest.raises(EmptyPoolError, match="train_dataset has no rows"):
        make_trainer(policy_folder, tmp_path, data.to_iterable_dataset().take(0))


@pytest.mark.parametrize("kind", ["messages", "text", "tokens"])
def test_streamed_evaluation_data_gives_the_loss_of_the_same_rows_at_once(kind, policy_folder, tmp_path):
    rows = make_preferences(12, seed=3).to_list()
    rows[5]["chosen"] = rows[5]["rejected"]
    if kind == "text":
        rows = [{name: side[0]["content"] for name, side in row.items()} for row in rows]
    data = Dataset.from_list(rows).add_column("success_rate", ["foreign"] * 12)
    if kind == "tokens":
        data = make_trainer(policy_folder, tmp_path, data).train_dataset.select_columns(
            ["prompt_ids", "chosen_ids", "rejected_ids"]
        )
    trainer = make_trainer(
        policy_folder, tmp_path, per_device_eval_batch_size=16,
        keywords={"eval_dataset": {"whole": data, "train": data.to_iterable_dataset()}},
    )  # fmt: skip
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(1.05)
    metrics = trainer.evaluate()
    assert metrics["eval_train_loss"] == pytest.approx(metrics["eval_whole_loss"], rel=1e-5)
    assert metrics["eval_whole_loss"] != pytest.approx(np.log(2), abs=1e-4)
    assert set(trainer.exclusions) == {"train", "eval_whole"}
    assert trainer.exclusions["train"] == {}
    assert trainer.evaluate(data.to_iterable_dataset())["eval_loss"] == pytest.approx(metrics["eval_whole_loss"])


def test_an_evaluation_set_called_train_is_precomputed_like_any_other(policy_folder, tmp_path):
    data = make_preferences(12, seed=3)
    trainer = make_trainer(
        policy_folder, tmp_path, precompute_ref_log_probs=True, keywords={"eval_dataset": {"train": data}}
    )
    assert trainer.evaluate()["eval_train_loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert set(trainer.exclusions) == {"train", "eval_train"}


def test_a_collator_sees_the_columns_that_are_not_removed(policy_folder, tmp_path):
    seen = []

    class Collator(DataCollatorForPreference):
        def torch_call(self, examples):
            seen.extend(example["origin"] for example in examples)
            return super().torch_call(examples)

    data = make_preferences(16).rename_column("prompt", "question").add_column("origin", list("abcdefghijklmnop"))
    trainer = make_trainer(
        policy_folder, tmp_path, data, max_steps=1, remove_unused_columns=False, fields={"prompt": "question"},
        keywords={"data_collator": Collator(pad_token_id=0)},
    )  # fmt: skip
    trainer.train()
    assert len(seen) == len(set(seen)) == 8


def test_success_rates_in_percent_are_read_and_foreign_ones_are_not(policy_folder, tmp_path, caplog):
    rates = [10] * 10 + [50] * 20 + [100] * 10
    for values, expected in ((rates, [10, 20, 10]), ([f"{rate} %" for rate in rates], [10, 20, 10])):
        data = make_preferences(40).add_column("success_rate", values)
        trainer = make_trainer(policy_folder, tmp_path, data, save_strategy="no", max_steps=1)
        trainer.train()
        assert trainer.stream.pool.occupancy.tolist() == expected
    assert "not plainly" not in caplog.text
    data = make_preferences(40).add_column("success_rate", ["easy"] * 40)
    trainer = make_trainer(policy_folder, tmp_path, data, save_strategy="no", max_steps=1)
    trainer.train()
    assert caplog.text.count("train_dataset: the column success_rate does not plainly hold rates") == 1
    with pytest.raises(DataError, match="success_rate is 'easy', expected a number"):
        make_trainer(policy_folder, tmp_path, data, fields={"success_rate": "success_rate"})


@pytest.mark.parametrize("precompute", [False, True])
def test_stored_reference_log_probabilities_are_used_and_checked(precompute, policy_folder, tmp_path):
    changes = {
        "precompute_ref_log_probs": precompute,
        "stratified": False,
        "keywords": {"ref_model": make_tiny_model(1)},
    }
    plain = make_trainer(policy_folder, tmp_path / "a", **changes)
    plain.train()
    stored = DPOTrainer(
        policy_folder,
        make_tiny_model(1),
        args=DPOConfig(str(tmp_path / "t"), bf16=False, use_cpu=True, precompute_ref_log_probs=True, report_to=[]),
        train_dataset=make_preferences(),
        processing_class=make_tiny_tokenizer(),
    ).train_dataset
    assert {"ref_chosen_logps", "ref_rejected_logps"} <= set(stored.column_names)
    trainer = make_trainer(policy_folder, tmp_path / "b", stored, **changes)
    trainer.train()
    np.testing.assert_allclose(losses(trainer), losses(plain), rtol=1e-3)
    assert trainer.token_counts.reference < plain.token_counts.reference / 2  # only what was checked
    wrong = stored.map(lambda row: {"ref_rejected_logps": row["ref_rejected_logps"] / 5})
    with pytest.raises(DataError, match=r"ref_rejected_logps is -.* in row \d, but the reference of this run gives"):
        make_trainer(policy_folder, tmp_path / "c", wrong, **changes).train()
    with pytest.raises(ConfigError, match="ref_chosen_logps and ref_rejected_logps, which with ld_alpha depend"):
        make_trainer(policy_folder, tmp_path / "d", stored, ld_alpha=0.5).train()


def test_what_is_wrong_with_the_data_is_said_as_it_is(policy_folder, tmp_path):
    empty = make_preferences(8).map(lambda row: {"prompt": [{"role": "user", "content": ""}]})
    with pytest.raises(EmptyPoolError, match=r"in train_dataset, excluded: \{'empty prompt': 8\}; ") as e:
        make_trainer(policy_folder, tmp_path, empty)
    assert "max_length" not in str(e.value)
    with pytest.raises(DataError, match=r"train_dataset is missing, expected a datasets\.Dataset"):
        SAGETrainer(policy_folder, args=make_arguments(tmp_path))
    with pytest.raises(DataError, match="train_dataset has images; SAGE scores text only"):
        make_trainer(policy_folder, tmp_path, make_preferences(4).add_column("images", [[]] * 4))


@pytest.mark.parametrize("place", ["argument", "model_init_kwargs"])
def test_qlora_on_a_cpu_is_refused_by_name(place, policy_folder, tmp_path):
    config = BitsAndBytesConfig(load_in_4bit=True)
    keywords = {"keywords": {"quantization_config": config}}
    with pytest.raises(ConfigError, match=r"quantization_config loads the policy in 4 or 8 bits \(QLoRA\)"):
        make_trainer(
            policy_folder, tmp_path,
            **(keywords if place == "argument" else {"model_init_kwargs": {"quantization_config": config}}),
        )  # fmt: skip


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(policy_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    make_trainer(policy_folder, folder, max_steps=3).train()
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.2}, "args.beta was 0.1, is 0.2"),
        ({"seed": 7}, "args.seed was 42, is 7"),
        ({"max_length": 20}, "args.max_length was 1024, is 20"),
        ({"loss_type": "hinge"}, r"args.loss_type.* was .*sigmoid.*, is .*hinge"),
        ({"data": make_preferences().shuffle(seed=0)}, "something else: data.sha256 was .*, is "),
        ({"keep_ratio": 0.25}, "args.keep_ratio was 0.5, is 0.25"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_resumed_run_that_is_another_is_refused_with_the_argument(changes, message, policy_folder, finished):
    trainer = make_trainer(policy_folder, finished, **{"max_steps": 3, **changes})
    with pytest.raises(RunFolderError, match=message):
        trainer.train(resume_from_checkpoint=str(finished / "checkpoint-3"))


def test_a_resumed_run_may_be_longer_where_that_is_said(policy_folder, finished, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path, max_steps=4, accept_changes=["args.max_steps"])
    trainer.train(resume_from_checkpoint=str(finished / "checkpoint-3"))
    assert trainer.state.global_step == 4


def test_a_checkpoint_without_the_state_of_sage_is_refused(policy_folder, tmp_path):
    make_trainer(policy_folder, tmp_path, max_steps=3, save_only_model=True).train()
    with pytest.raises(RunFolderError, match=r"has no sage_state\.json.*save_only_model must be off"):
        make_trainer(policy_folder, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
