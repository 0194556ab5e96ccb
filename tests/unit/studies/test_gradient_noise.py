"""Gradient noise against its definition, on a tiny policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sage_dpo.config import LoraSettings, PolicySettings, RunConfig, validate
from sage_dpo.core.margins import dpo_loss, implicit_margin
from sage_dpo.core.statistics import gradient_snr_from_norms
from sage_dpo.forward import TokenizedCompletion, score_completions
from sage_dpo.pipeline.policies import load_trained, load_untrained
from sage_dpo.records import PreferencePair
from sage_dpo.storage import write_records
from sage_dpo.studies import gradient_noise
from sage_dpo.studies.gradient_noise import MICROBATCH, _at_policy, _logps, _noise

BETA = 0.1


def make_pairs(count: int, seed: int = 0) -> list[PreferencePair]:
    rng = np.random.default_rng(seed)
    draw = lambda high: tuple(rng.integers(5, 60, size=rng.integers(1, high)).tolist())  # noqa: E731
    return [PreferencePair(str(i), "p", draw(9), draw(12), draw(12)) for i in range(count)]


def completions(pairs: list[PreferencePair]) -> list[TokenizedCompletion]:
    chosen = [TokenizedCompletion(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    return [*chosen, *(TokenizedCompletion(pair.prompt_ids, pair.rejected_ids) for pair in pairs)]


def reference(model, pairs: list[PreferencePair]) -> np.ndarray:
    """Log-probabilities of a reference that is not the policy."""
    logps = score_completions(model, completions(pairs), token_budget=4096).logps
    return logps + np.random.default_rng(1).normal(0, 3, size=logps.shape)


def test_log_probabilities_are_those_of_the_scorer(tiny_model):
    rows = completions(make_pairs(6))
    expected = score_completions(tiny_model, rows, token_budget=4096).logps
    logps = _logps(tiny_model, [(row.prompt_ids, row.completion_ids) for row in rows])
    np.testing.assert_allclose(logps.detach().numpy(), expected, rtol=1e-4)
    assert logps.requires_grad


def test_noise_is_that_of_the_stacked_gradients(tiny_model):
    pairs = make_pairs(3 * MICROBATCH)
    base = reference(tiny_model, pairs)
    gradients = []
    for batch in np.arange(len(pairs)).reshape(3, MICROBATCH):
        some = [pairs[i] for i in batch]
        logps = _logps(tiny_model, [(row.prompt_ids, row.completion_ids) for row in completions(some)])
        ref = torch.tensor(np.concatenate([base[batch], base[len(pairs) + batch]]), dtype=torch.float32)
        margin = implicit_margin(*logps.split(MICROBATCH), *ref.split(MICROBATCH), beta=BETA)
        parts = torch.autograd.grad(dpo_loss(margin).mean(), list(tiny_model.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]).double().numpy())
    stack = np.stack(gradients)
    values = _noise(tiny_model, pairs, base, np.arange(len(pairs)), BETA)
    snr = gradient_snr_from_norms((stack**2).sum(axis=1), (stack.mean(axis=0) ** 2).sum())
    assert values["snr"] == pytest.approx(snr, rel=1e-4)
    assert values["variance"] == pytest.approx(stack.var(axis=0, ddof=1).sum(), rel=1e-4)
    assert values["signal"] == pytest.approx(values["snr"] * values["variance"])


def test_rows_beyond_the_last_whole_microbatch_do_not_count(tiny_model):
    pairs = make_pairs(2 * MICROBATCH + 3)
    base = reference(tiny_model, pairs)
    rows = np.arange(len(pairs))
    assert _noise(tiny_model, pairs, base, rows, BETA) == _noise(tiny_model, pairs, base, rows[:-3], BETA)


@pytest.mark.parametrize("batches", [2, 3, 7, 25])
def test_equal_pairs_have_no_noise(batches, tiny_model):
    pairs = make_pairs(1) * (batches * MICROBATCH)
    base = np.zeros(2 * len(pairs))
    values = _noise(tiny_model, pairs, base, np.arange(len(pairs)), BETA)
    assert values["variance"] == pytest.approx(0.0, abs=1e-6 * values["signal"])
    assert values["signal"] > 0


def test_with_adapters_the_gradient_is_that_of_the_adapter(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "base")
    settings = PolicySettings(path=str(tmp_path / "base"), lora=LoraSettings(r=2, alpha=4))
    untuned = load_untrained(settings, seed=0)
    with torch.no_grad():
        for name, parameter in untuned.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    untuned.save_pretrained(tmp_path / "adapter")
    pairs = make_pairs(2 * MICROBATCH)
    base = reference(tiny_model, pairs)
    for model in (
        load_untrained(settings, seed=0),
        load_trained(settings, tmp_path / "adapter", is_trainable=True),
    ):
        assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
        assert _noise(model, pairs, base, np.arange(len(pairs)), BETA)["variance"] > 0


def test_a_new_adapter_is_that_of_its_seed_and_leaves_the_global_generator_alone(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    settings = PolicySettings(path=str(tmp_path), lora=LoraSettings(r=2, alpha=4))
    before = torch.get_rng_state()
    drawn = [
        torch.cat([p.flatten() for p in load_untrained(settings, seed=seed).parameters() if p.requires_grad])
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_scores_are_taken_on_the_device_of_each_policy(tiny_model, tmp_path, monkeypatch):
    devices = []

    def spy(model, rows, **settings):
        devices.append(settings["device"])
        return score_completions(model, rows, **settings)

    monkeypatch.setattr(gradient_noise, "load_model", lambda _policy: tiny_model)
    monkeypatch.setattr("sage_dpo.selection.models.score_completions", spy)
    config = validate(RunConfig, {"name": "r", "problems": {"kind": "gym"}, "arms": {"sage": {}}})
    write_records(tmp_path / "pairs.parquet", make_pairs(4), PreferencePair)
    _at_policy(config, tiny_model, tmp_path / "pairs.parquet", seed=0)
    assert devices == [tiny_model.device] * 2


ARMS = {
    "vanilla": {"train": False},
    "half": {"selection": {"selector": "random"}},
    "half_slowly": {"selection": {"selector": "random"}, "training": {"learning_rate": 1e-6}},
    "quarter": {"selection": {"selector": "random", "keep_ratio": 0.25}},
    "all": {"selection": {"selector": "all", "keep_ratio": 1.0}},
}


@pytest.fixture
def measured(tiny_model, tmp_path, monkeypatch):
    """Which arms are measured on a pool of so many pairs."""
    monkeypatch.setattr(gradient_noise, "load_model", lambda _policy: tiny_model)
    config = validate(RunConfig, {"name": "r", "problems": {"kind": "gym"}, "arms": ARMS})

    def arms(count: int) -> list[str]:
        path: Path = tmp_path / f"{count}.parquet"
        write_records(path, make_pairs(count), PreferencePair)
        return list(_at_policy(config, tiny_model, path, seed=0))

    return arms


def test_arms_that_select_alike_are_measured_once_and_untrained_ones_never(measured):
    assert measured(8 * MICROBATCH) == ["half", "quarter", "all"]


def test_an_arm_that_keeps_fewer_than_two_microbatches_is_left_out(measured):
    assert measured(4 * MICROBATCH) == ["half", "all"]
    assert measured(2 * MICROBATCH - 1) == []
