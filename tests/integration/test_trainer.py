"""`SAGETrainer` against TRL's `DPOTrainer` and against itself interrupted."""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tests.support.flash import FlashAttention, uses_flash_attention
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer
from tests.support.training import losses, make_arguments, make_preferences
from transformers import Qwen2ForCausalLM
from trl import DPOConfig, DPOTrainer

from sage_dpo import SAGETrainer
from sage_dpo.core.margins import dpo_loss, implicit_margin
from sage_dpo.errors import ConfigError, DataError, EmptyPoolError, NumericalError
from sage_dpo.forward import as_completions, score_completions
from sage_dpo.forward.head import _NOT_SLICED, _output_head
from sage_dpo.records import PairScore
from sage_dpo.selection.log import read_candidates
from sage_dpo.selection.source import PoolContents
from sage_dpo.training.config import default_output_dir


def make_trainer(policy: str, folder: Path, data: Dataset | None = None, *, lora=False, source=None, **changes):
    return SAGETrainer(
        policy,
        args=make_arguments(folder, **changes),
        train_dataset=make_preferences() if data is None else data,
        processing_class=make_tiny_tokenizer(),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
        pair_source=source,
    )


def assert_equal_weights(first, second) -> None:
    for (name, mine), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(mine, other), name


class NewPairs:
    """Makes a new, smaller data set at each refresh; what a test can predict."""

    def refresh(self, model, *, version, step):
        return self.restore(version=version)

    def restore(self, *, version):
        rng = random.Random(version)
        ids = lambda: [rng.randrange(5, 35) for _ in range(rng.randint(3, 9))]  # noqa: E731
        rows = [{"prompt_ids": ids(), "chosen_ids": [*ids(), 4], "rejected_ids": [*ids(), 4]} for _ in range(30)]
        return PoolContents(Dataset.from_list(rows), np.linspace(0.1, 0.9, 30), competence=0.5)


VARIANTS = {
    "sage": {},
    "refreshed": {"refresh_steps": 2},
    "on_policy": {"refresh_steps": 2, "source": True},
    "implicit": {"margin": "implicit", "selector": "lowest_margin"},
    "precomputed": {"precompute_ref_log_probs": True},
    "random": {"selector": "random", "stratified": False},
    "all": {"selector": "all", "keep_ratio": 1.0, "stratified": False},
    "lora": {"lora": True},
    "scores used again": {"score_max_age": 2},
    "gated": {"gate": -0.5},
}


def test_scores_used_again_save_tokens_and_are_logged(policy_folder, tmp_path):
    # 40 pairs, 16 candidates a step: from the third step on, pairs come back two or three steps after they were scored
    counts = {}
    for age in (0, 3):
        trainer = make_trainer(policy_folder, tmp_path / str(age), score_max_age=age, stratified=False)
        trainer.train()
        counts[age] = trainer.token_counts
        reused = [row["sage/scores_reused"] for row in trainer.state.log_history if "loss" in row]
        assert (max(reused) > 0) == (age > 0)
    assert counts[3].scored < counts[0].scored
    assert counts[3].trained_pairs == counts[0].trained_pairs


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(variant, policy_folder, tmp_path):
    changes = dict(VARIANTS[variant])
    source = NewPairs() if changes.pop("source", False) else None
    whole = make_trainer(policy_folder, tmp_path / "run", source=source, **changes)
    whole.train()
    expected = read_candidates(tmp_path / "run" / "candidates")
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    resumed = make_trainer(policy_folder, tmp_path / "run", source=source, **changes)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert losses(whole) == losses(resumed)
    assert_equal_weights(whole.model, resumed.model)
    assert whole.token_counts == resumed.token_counts
    assert whole.stream.pool.state_dict() == resumed.stream.pool.state_dict()
    assert whole.exclusions == resumed.exclusions
    resumed_log = read_candidates(tmp_path / "run" / "candidates")
    assert [repr(row) for row in resumed_log] == [repr(row) for row in expected]  # NaN where nothing was scored


def test_resumed_from_its_last_step_it_takes_no_further_one(policy_folder, tmp_path):
    whole = make_trainer(policy_folder, tmp_path / "run", make_preferences(400))  # one epoch is longer than max_steps
    whole.train()
    resumed = make_trainer(policy_folder, tmp_path / "run", make_preferences(400))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert_equal_weights(whole.model, resumed.model)


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs(policy_folder, tmp_path):
    runs = [make_trainer(policy_folder, tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2))]
    for run in runs:
        run.train()
    assert losses(runs[0]) == losses(runs[1]) != losses(runs[2])
    assert_equal_weights(runs[0].model, runs[1].model)


def test_selecting_everything_is_trl_dpo(policy_folder, tmp_path):
    """With one batch that holds the whole data set, selector `all` must give TRL's own loss and weights."""
    data = make_preferences(8)
    ours = make_trainer(
        policy_folder, tmp_path / "a", data, selector="all", keep_ratio=1.0, stratified=False, max_steps=3,
        per_device_train_batch_size=8, gradient_accumulation_steps=1,
    )  # fmt: skip
    ours.train()
    arguments = DPOConfig(
        str(tmp_path / "b"), max_steps=3, per_device_train_batch_size=8, learning_rate=1e-3, bf16=False, use_cpu=True,
        gradient_checkpointing=False, report_to=[], logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    theirs = DPOTrainer(policy_folder, args=arguments, train_dataset=data, processing_class=make_tiny_tokenizer())
    theirs.train()
    np.testing.assert_allclose(losses(ours), losses(theirs), rtol=2e-4)
    for mine, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("lora", [False, True])
def test_packed_sequences_select_and_train_as_padded_ones_do(lora, policy_folder, tmp_path, monkeypatch):
    """Scores, reference and training rows without padding, where the attention kernel keeps sequences apart."""
    padded = make_trainer(policy_folder, tmp_path / "padded", max_steps=3, lora=lora)
    padded.train()
    flash = FlashAttention()
    flash.install(monkeypatch)
    packed = make_trainer(policy_folder, tmp_path / "packed", max_steps=3, lora=lora)
    for model in filter(None, (packed.model, packed.ref_model)):
        uses_flash_attention(model.get_base_model() if lora else model)
    packed.train()
    np.testing.assert_allclose(losses(packed), losses(padded), rtol=2e-3)
    kept = [
        [(row.step, row.pair_id) for row in read_candidates(tmp_path / name / "candidates") if row.is_kept]
        for name in ("padded", "packed")
    ]
    assert kept[0] == kept[1]
    assert packed.token_counts == padded.token_counts
    assert len(flash.bounds) > 0


def test_compiled_layers_select_and_train_as_plain_ones_do(policy_folder, tmp_path, monkeypatch):
    plain = make_trainer(policy_folder, tmp_path / "plain", max_steps=3)
    plain.train()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # what `accelerate launch` sets where nobody asked it for compilation
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", "False")
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_DYNAMIC", "False")
    options = {"torch_compile": True, "torch_compile_backend": "eager"}  # traced as for any other, not compiled
    compiled = make_trainer(policy_folder, tmp_path / "compiled", max_steps=3, **options)
    compiled.train()
    np.testing.assert_allclose(losses(compiled), losses(plain), rtol=1e-4)
    # a layer and what surrounds it, with and without gradients; not each layer, not each shape
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8
    # the heads of policy and reference still run in slices
    heads = [_output_head(model) for model in (compiled.model, compiled.model_wrapped, compiled.ref_model)]
    assert all(isinstance(head, torch.nn.Linear) and head not in _NOT_SLICED for head in heads)
    torch._dynamo.reset()


def test_trl_loss_on_our_batch_is_the_core_formula(policy_folder, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path)
    batches = []
    original = trainer.training_step
    trainer.training_step = lambda model, inputs, *rest: (
        batches.append(copy.deepcopy(inputs)),
        original(model, inputs, *rest),
    )[1]
    trainer.train()
    inputs = batches[-1]
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, inputs)
    sequences = [
        (ids[attention.bool()], mask[attention.bool()].bool())
        for ids, attention, mask in zip(
            inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"], strict=True
        )
    ]
    half = len(sequences) // 2
    columns = {
        "prompt_ids": [ids[~mask].tolist() for ids, mask in sequences[:half]],
        "chosen_ids": [ids[mask].tolist() for ids, mask in sequences[:half]],
        "rejected_ids": [ids[mask].tolist() for ids, mask in sequences[half:]],
    }
    scores = score_completions(trainer.model, as_completions(columns), token_budget=10_000)
    logps = torch.from_numpy(scores.logps)
    margin = implicit_margin(
        logps[:half], logps[half:], inputs["ref_chosen_logps"], inputs["ref_rejected_logps"], beta=trainer.beta
    )
    torch.testing.assert_close(loss.double(), dpo_loss(margin).mean(), rtol=1e-4, atol=1e-6)


def test_lowest_margin_pairs_are_the_ones_kept(policy_folder, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path, selector="lowest_margin", cut="global", stratified=False)
    trainer.train()
    rows = read_candidates(tmp_path / "candidates")
    for step in range(6):
        of_step = [row for row in rows if row.step == step]
        assert len(of_step) == 16
        kept = [row.margin for row in of_step if row.is_kept]
        assert len(kept) == 8
        assert max(kept) <= min(row.margin for row in of_step if not row.is_kept)


def test_every_candidate_is_logged_once_with_finite_numbers(policy_folder, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path, refresh_steps=2)
    trainer.train()
    rows = read_candidates(tmp_path / "candidates")
    assert len(rows) == len({(row.step, row.pair_id) for row in rows}) == 6 * 16
    assert {row.pool_version for row in rows} == {0, 1, 2}
    assert {row.stratum for row in rows} == {"easy", "medium", "hard"}
    numbers = [(r.margin, r.gradient_signal, r.curvature, r.informativeness, r.utility) for r in rows]
    assert np.isfinite(numbers).all()
    assert isinstance(rows[0], PairScore)


def test_metrics_say_what_was_kept_and_what_it_cost(policy_folder, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path)
    trainer.train()
    last = [row for row in trainer.state.log_history if "loss" in row][-1]
    for name in ("margin", "gradient_signal", "curvature", "informativeness", "utility"):
        assert {f"sage/{name}_kept", f"sage/{name}_dropped"} <= set(last)
    assert last["sage/kept_fraction"] == 0.5
    assert last["sage/tokens_trained"] == trainer.token_counts.trained
    assert trainer.token_counts.trained_pairs == 48
    assert trainer.token_counts.candidate_pairs == 96


def test_global_random_state_is_not_touched_by_the_selection(policy_folder, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path, selector="random", stratified=False)
    states = []
    original = trainer.get_batch_samples

    def spy(*arguments):
        before = torch.get_rng_state()
        batch = original(*arguments)
        states.append(torch.equal(before, torch.get_rng_state()))
        return batch

    trainer.get_batch_samples = spy
    trainer.train()
    assert states == [True] * 6


def test_over_long_pairs_are_excluded_and_counted_never_cut(policy_folder, tmp_path, caplog):
    trainer = make_trainer(policy_folder, tmp_path, max_length=24, max_steps=1, per_device_train_batch_size=1)
    lengths = [
        len(p) + max(len(c), len(r))
        for p, c, r in zip(
            *(trainer.stream.pairs[name][:] for name in ("prompt_ids", "chosen_ids", "rejected_ids")), strict=True
        )
    ]
    assert max(lengths) <= 24
    assert trainer.exclusions["train"]["longer than max_length"] == 40 - len(lengths)


def test_unusable_rows_are_counted(policy_folder, tmp_path):
    data = make_preferences(20).to_list()
    data[3]["chosen"] = [{"role": "assistant", "content": ""}]
    data[5]["rejected"] = data[5]["chosen"]
    trainer = make_trainer(policy_folder, tmp_path, Dataset.from_list(data))
    assert trainer.exclusions["train"] == {"empty completion": 1, "chosen equals rejected": 1}
    assert len(trainer.stream.pairs) == 18


def test_columns_of_other_names_are_read_as_the_fields_say(policy_folder, tmp_path):
    data = make_preferences(6)
    named = data.rename_column("prompt", "question")
    with pytest.raises(DataError, match="train_dataset: no column for 'prompt', but question, which would be lost"):
        make_trainer(policy_folder, tmp_path, named)
    trainer = make_trainer(policy_folder, tmp_path, named, fields={"prompt": "question"})
    expected = make_trainer(policy_folder, tmp_path, data).stream.pairs
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert trainer.stream.pairs[name][:] == expected[name][:]


def test_nothing_usable_is_an_error_with_a_remedy(policy_folder, tmp_path):
    with pytest.raises(EmptyPoolError, match=r"longer than max_length.*raise max_length"):
        make_trainer(policy_folder, tmp_path, max_length=5)


@pytest.mark.parametrize("is_stratified", [False, True])
def test_nan_log_probability_names_the_pairs(is_stratified, policy_folder, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path, stratified=is_stratified)
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"log-probabilities are not finite at step 0 \(pairs \["):
        trainer.train()


def test_a_pool_smaller_than_one_step_is_an_error(policy_folder, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path, make_preferences(5))
    with pytest.raises(EmptyPoolError, match="holds 5 pairs, fewer than the 8 trained on per step"):
        trainer.train()


def test_success_rate_column_gives_the_strata(policy_folder, tmp_path):
    data = make_preferences(40).add_column("success_rate", [0.1] * 10 + [0.5] * 20 + [0.9] * 10)
    trainer = make_trainer(policy_folder, tmp_path, data, max_steps=1)
    trainer.train()
    assert trainer.stream.pool.occupancy.tolist() == [10, 20, 10]


@pytest.mark.parametrize("gamma", [0.0, -0.1, 1.5])
def test_keep_ratio_outside_its_range_is_refused(gamma, tmp_path):
    with pytest.raises(ConfigError, match="keep_ratio"):
        make_arguments(tmp_path, keep_ratio=gamma)


def test_wrong_arguments_are_refused_with_the_remedy(policy_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"args is a DPOConfig, expected a SAGEConfig; replace DPOConfig\(\.\.\.\)"):
        SAGETrainer(policy_folder, args=DPOConfig(str(tmp_path), bf16=False), train_dataset=make_preferences())


def test_evaluation_data_gets_a_reference_too(policy_folder, tmp_path):
    trainer = SAGETrainer(
        policy_folder,
        args=make_arguments(tmp_path, eval_strategy="steps", eval_steps=3),
        train_dataset=make_preferences(),
        eval_dataset=make_preferences(10, seed=9),
        processing_class=make_tiny_tokenizer(),
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(np.log(2), abs=1e-5)  # policy = reference: margin 0
    trainer.train()
    assert any("eval_loss" in row for row in trainer.state.log_history)


def cached_and_true_reference(trainer) -> tuple[np.ndarray, np.ndarray]:
    completions = as_completions(trainer.train_dataset[:])
    cached = trainer.stream.scorer.reference_logps(completions)
    return cached, score_completions(trainer.ref_model, completions, token_budget=4096).logps


def test_training_again_does_not_make_the_trained_policy_its_own_reference(policy_folder, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path, save_strategy="no")
    trainer.train()
    trainer.train()
    np.testing.assert_allclose(*cached_and_true_reference(trainer), rtol=1e-4)


def test_a_policy_changed_in_memory_is_not_its_own_reference(policy_folder, tmp_path):
    """TRL loads the reference from the path the model came from; the instance may hold other weights."""
    model = Qwen2ForCausalLM.from_pretrained(policy_folder)
    with torch.no_grad():
        model.model.norm.weight.mul_(3.0)
    trainer = SAGETrainer(
        model,
        args=make_arguments(tmp_path, save_strategy="no"),
        train_dataset=make_preferences(),
        processing_class=make_tiny_tokenizer(),
    )
    trainer.train()
    np.testing.assert_allclose(*cached_and_true_reference(trainer), rtol=1e-4)


def test_new_pairs_longer_than_max_length_are_excluded_too(policy_folder, tmp_path):
    class LongPairs(NewPairs):
        def restore(self, *, version):
            contents = super().restore(version=version)
            rows = contents.pairs.to_list()
            rows[3]["chosen_ids"] = [7] * 100
            return PoolContents(Dataset.from_list(rows), contents.success_rates)

    trainer = make_trainer(policy_folder, tmp_path, source=LongPairs(), refresh_steps=2, max_length=60, max_steps=3)
    trainer.train()
    assert len(trainer.stream.pairs) == 29
    assert trainer.exclusions["train"]["longer than max_length"] >= 1


def test_a_refresh_without_pairs_keeps_the_pool_and_is_counted(policy_folder, tmp_path):
    class NoPairs(NewPairs):
        def refresh(self, model, *, version, step):
            raise EmptyPoolError("nothing")

    trainer = make_trainer(policy_folder, tmp_path, source=NoPairs(), refresh_steps=2)
    trainer.train()
    assert trainer.stream.pool.version == 0
    assert trainer.stream.attempted_refreshes == 2
    assert trainer.state.global_step == 6


def test_competence_without_known_rates_is_refused(policy_folder, tmp_path):
    data = make_preferences().add_column("success_rate", [None] * 40)
    with pytest.raises(ConfigError, match="success rates are estimated"):
        make_trainer(policy_folder, tmp_path, data, schedule_by="competence")


def test_shut_pairs_cost_no_trained_tokens(policy_folder, tmp_path):
    counts = {}
    for gate in (None, -0.5):
        trainer = make_trainer(policy_folder, tmp_path / str(gate), gate=gate, stratified=False)
        trainer.train()
        counts[gate] = trainer.token_counts
    assert 0 < counts[-0.5].trained_pairs < counts[None].trained_pairs
    assert counts[-0.5].trained < counts[None].trained
    assert counts[-0.5].candidate_pairs == counts[None].candidate_pairs


def test_a_spent_pool_ends_training_by_itself_with_the_reason(policy_folder, tmp_path):
    # 40 pairs, 16 candidates a step, none of them open: after three steps all have been seen
    trainer = make_trainer(policy_folder, tmp_path, gate=-1e9, stratified=False)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert trainer.state.global_step == 3
    assert trainer.stop_reason.startswith("the pool is spent after step 3")
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert trainer.token_counts.trained == 0


def test_a_spent_pool_is_refreshed_early_where_pairs_can_be_made(policy_folder, tmp_path):
    trainer = make_trainer(policy_folder, tmp_path, source=NewPairs(), gate=-1e9, refresh_steps=100, max_steps=20)
    trainer.train()
    assert trainer.stream.pool.version == 1  # after 3 steps; its 30 pairs are spent 2 steps later
    assert trainer.state.global_step == 5


def test_the_mean_over_asked_pairs_scales_the_gradient_of_the_open_ones(policy_folder, tmp_path):
    norms = {}
    for mean in ("asked", "open"):
        trainer = make_trainer(
            policy_folder, tmp_path / mean, gate=-4.0, gate_mean=mean, stratified=False, max_steps=1,
            gradient_accumulation_steps=1, per_device_train_batch_size=8,
        )  # fmt: skip
        trainer.train()
        norms[mean] = losses(trainer)[0][1]
    kept = trainer.token_counts.trained_pairs
    assert 0 < kept < 8
    assert norms["asked"] == pytest.approx(norms["open"] * kept / 8, rel=1e-4)


def test_evaluating_new_data_takes_the_reference_of_this_model(policy_folder, tmp_path):
    data = make_preferences()
    moved = make_trainer(policy_folder, tmp_path / "moved")
    with torch.no_grad():
        for parameter in moved.model.parameters():
            parameter.mul_(1.1)
    moved.evaluate(data)  # another model saw the same data first
    trainer = make_trainer(policy_folder, tmp_path / "untrained")
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_a_loss_that_is_not_finite_ends_training_under_every_selector(policy_folder, tmp_path):
    trainer = SAGETrainer(
        policy_folder,
        make_tiny_model(),
        make_arguments(tmp_path, selector="all", keep_ratio=1.0, stratified=False),
        train_dataset=make_preferences(),
        processing_class=make_tiny_tokenizer(),
    )
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(NumericalError, match="the loss is nan at step 0; lower the learning rate"):
        trainer.train()


def test_a_run_without_arguments_has_a_folder_named_for_its_model_and_a_card_that_cites_the_method(
    policy_folder, tmp_path
):
    assert default_output_dir("org/Tiny") == "Tiny-SAGE"
    trainer = make_trainer(policy_folder, tmp_path)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "2602.01207" in card
    assert "Stability-Aware" in card
