"""Sequences end to end in one row give what each gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from tests.support.completions import make_completions
from tests.support.flash import FlashAttention, uses_flash_attention
from tests.support.small_models import WITH_WINDOWS, make_small
from tests.support.tiny import make_tiny_model
from torch.nn.attention.flex_attention import flex_attention
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    masking_utils,
)
from transformers.integrations import flex_attention as flex_integration
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from sage_dpo.forward import TokenizedCompletion, score_completions
from sage_dpo.forward.packing import PACKED_MODELS, packing_arguments, supports_packing


@pytest.fixture
def flash(monkeypatch):
    attention = FlashAttention()
    attention.install(monkeypatch)
    return attention


@pytest.mark.parametrize("token_budget", [1, 64, 100_000])
def test_scores_are_those_of_padded_batches(flash, token_budget):
    completions = make_completions(17)
    padded = score_completions(make_tiny_model(), completions, token_budget=token_budget)
    packed = score_completions(uses_flash_attention(make_tiny_model()), completions, token_budget=token_budget)
    np.testing.assert_allclose(packed.logps, padded.logps, rtol=1e-5)
    np.testing.assert_allclose(packed.informativeness, padded.informativeness, rtol=1e-5)
    assert flash.key_bounds == flash.bounds
    passes = [bounds for layer, bounds in enumerate(flash.bounds) if layer % 2 == 0]  # the model has two layers
    lengths = sorted(map(len, completions), reverse=True)
    assert [n for bounds in passes for n in np.diff(bounds).tolist()] == lengths  # every token once, none of padding
    assert all(bounds[-1] <= token_budget or len(bounds) == 2 for bounds in passes)
    assert token_budget < 100_000 or len(passes) == 1


def test_transformers_keeps_packed_sequences_apart_by_their_positions():
    # other kernels get a mask made from the positions: the same interface, so the same scores
    completions = make_completions(5)
    ids = torch.tensor([[i for c in completions for i in c.prompt_ids + c.completion_ids]])
    arguments = packing_arguments(np.array([len(c) for c in completions]), "cpu")
    model = make_tiny_model()
    with torch.no_grad():
        packed = model(input_ids=ids, position_ids=arguments["position_ids"], use_cache=False).logits[0]
        alone = [model(input_ids=torch.tensor([c.prompt_ids + c.completion_ids])).logits[0] for c in completions]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_arguments_by_hand():
    arguments = packing_arguments(np.array([3, 1, 2]), "cpu")
    assert arguments["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert arguments["cu_seq_lens_q"].tolist() == arguments["cu_seq_lens_k"].tolist() == [0, 3, 4, 6]
    assert arguments["cu_seq_lens_q"].dtype == torch.int32
    assert arguments["max_length_q"] == arguments["max_length_k"] == 3


def test_which_models_are_packed():
    model = make_tiny_model()
    assert not supports_packing(model)  # sdpa
    for attention, expected in {
        "flash_attention_2": True,
        "flash_attention_3": True,
        "kernels-community/flash-attn3": True,
        "flex_attention": True,
        "eager": False,
    }.items():
        model.config._attn_implementation = attention
        assert supports_packing(model) is expected, attention
    assert not supports_packing(torch.nn.Linear(2, 2))


def make_sequences(count: int = 7):
    rng = np.random.default_rng(0)
    draw = lambda low, high: tuple(rng.integers(3, 32, rng.integers(low, high)).tolist())  # noqa: E731
    return [TokenizedCompletion(draw(2, 12), draw(1, 20)) for _ in range(count)]


def worst_difference(model, expected, sequences) -> float:
    """Largest difference in nats between each sequence alone and all of them in one row."""
    assert supports_packing(model)
    found = score_completions(model, sequences, token_budget=10_000)
    return float(np.abs(found.logps - expected).max())


@pytest.mark.parametrize("model_type", sorted(PACKED_MODELS))
def test_flash_attention_keeps_the_sequences_of_every_listed_model_apart(model_type, flash):
    model, sequences = make_small(model_type, "eager"), make_sequences()
    expected = score_completions(model, sequences, token_budget=1).logps
    assert worst_difference(uses_flash_attention(model), expected, sequences) < 1e-3
    assert flash.key_bounds == flash.bounds
    assert len(flash.bounds) == 2
    assert len(flash.bounds[0]) == len(sequences) + 1


@pytest.mark.parametrize("model_type", sorted(PACKED_MODELS))
def test_flex_attention_keeps_them_apart_and_is_not_taken_with_windows(model_type, monkeypatch):
    # as PyTorch computes them without a compiler, for which they take most of a minute
    whole_mask = masking_utils.create_block_mask
    monkeypatch.setattr(
        masking_utils, "create_block_mask", lambda *a, **options: whole_mask(*a, **{**options, "_compile": False})
    )
    monkeypatch.setattr(
        flex_integration, "compile_friendly_flex_attention", lambda *a, training=False, **o: flex_attention(*a, **o)
    )
    model, sequences = make_small(model_type, "eager"), make_sequences()
    expected = score_completions(model, sequences, token_budget=1).logps
    has_windows = model_type in WITH_WINDOWS
    model.config._attn_implementation = "flex_attention"
    assert supports_packing(model) is not has_windows
    if not has_windows:
        assert worst_difference(model, expected, sequences) < 1e-3


def test_a_model_whose_layers_mix_sequences_is_not_packed():
    config = Lfm2Config(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"],
    )  # fmt: skip
    model = uses_flash_attention(Lfm2ForCausalLM(config))
    assert model._supports_attention_backend  # what transformers says of it
    assert not supports_packing(model)


def test_adapters_are_packed_unless_they_put_tokens_in_front():
    flash_model = uses_flash_attention(make_tiny_model())
    assert supports_packing(get_peft_model(flash_model, LoraConfig(target_modules=["q_proj"])))
    prompt_tuning = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    assert not supports_packing(get_peft_model(uses_flash_attention(make_tiny_model()), prompt_tuning))


def test_a_wrapped_model_is_looked_into():
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    compiled = torch.compile(uses_flash_attention(LlamaForCausalLM(config)))
    assert supports_packing(compiled)
