"""Statistics out of a head in slices, against the whole logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tests.support.tiny import make_tiny_model
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig

from sage_dpo.core.utility import token_informativeness
from sage_dpo.forward import head as head_module
from sage_dpo.forward.head import Targets, forward_statistics

VOCABULARY = 64
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


def make_model(config, **changes):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**{**SHAPE, **changes})).eval()


def make_lora(targets):
    torch.manual_seed(0)
    model = get_peft_model(make_model(LlamaConfig), LoraConfig(target_modules=targets, init_lora_weights=False))
    return model.eval()


MODELS = {
    "llama": lambda: make_model(LlamaConfig),
    "gemma2, logits capped": lambda: make_model(Gemma2Config, final_logit_softcapping=2.0),
    "cohere, logits scaled": lambda: make_model(CohereConfig, logit_scale=0.25),
    "granite, logits divided": lambda: make_model(GraniteConfig, logits_scaling=3.0),
    "lora": lambda: make_lora(["q_proj"]),
    "lora on the head": lambda: make_lora(["lm_head"]),
    "prompt tuning": lambda: get_peft_model(
        make_model(LlamaConfig), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    ).eval(),
}


def make_input():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (3, 11), generator=generator)
    rows = torch.tensor([0, 0, 0, 1, 2, 2])
    positions = torch.tensor([4, 5, 10, 1, 7, 8])
    return ids, Targets(rows, positions, ids[rows, positions])


def by_definition(model, ids, targets):
    logits = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :].double()
    probabilities = logits.softmax(-1)[targets.rows, targets.positions - 1]
    logps = probabilities.gather(1, targets.ids[:, None])[:, 0].log()
    return torch.stack([logps, token_informativeness(logps, (probabilities**2).sum(-1))], dim=1)


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_slices_and_tiles_give_what_the_whole_logits_give(name, by_kernel, monkeypatch):
    monkeypatch.setitem(head_module._SLICE, "cpu", 2 * VOCABULARY)
    monkeypatch.setattr(head_module, "_has_kernel", lambda _: by_kernel)  # on a CPU TRL runs it in PyTorch
    monkeypatch.setattr(head_module, "_TILE", 24)
    model = MODELS[name]()
    ids, targets = make_input()
    expected = by_definition(model, ids, targets)
    torch.testing.assert_close(forward_statistics(model, ids, targets).double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_definition(model, ids, targets), expected, rtol=0, atol=0)  # left as it was


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_without_informativeness_log_probabilities_are_the_same_bit_for_bit(name, by_kernel, monkeypatch):
    monkeypatch.setattr(head_module, "_has_kernel", lambda _: by_kernel)
    model = MODELS[name]()
    ids, targets = make_input()
    whole = forward_statistics(model, ids, targets)
    found = forward_statistics(model, ids, replace(targets, with_informativeness=False))
    torch.testing.assert_close(found, whole[:, :1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "whole"), [("llama", False), ("lora on the head", False), ("granite, logits divided", True)]
)
@torch.inference_mode()
def test_only_a_slice_of_logits_exists_at_once(name, whole, monkeypatch):
    monkeypatch.setitem(head_module._SLICE, "cpu", 2 * VOCABULARY)
    seen = []
    original = head_module.token_statistics
    monkeypatch.setattr(
        head_module,
        "token_statistics",
        lambda logits, ids, **o: (seen.append(len(logits)), original(logits, ids, **o))[1],
    )
    forward_statistics(MODELS[name](), *make_input())
    slices = [1, 2, 2, 1]  # the first tells the size of the vocabulary
    assert seen == (slices * 2 if whole else slices)


@pytest.mark.parametrize(("name", "by_kernel"), [("llama", True), ("lora", True), ("lora on the head", False)])
@torch.inference_mode()
def test_the_kernel_takes_plain_heads_only(name, by_kernel, monkeypatch):
    monkeypatch.setattr(head_module, "_has_kernel", lambda _: True)
    seen = []
    original = head_module._in_tiles
    monkeypatch.setattr(head_module, "_in_tiles", lambda *arguments: (seen.append(1), original(*arguments))[1])
    forward_statistics(MODELS[name](), *make_input())
    assert bool(seen) is by_kernel


@torch.inference_mode()
def test_a_forward_that_accelerate_put_on_the_head_is_kept():
    model = make_tiny_model()
    head = model.get_output_embeddings()
    original = head.forward
    head.forward = lambda hidden: original(hidden) * 2  # as an instance attribute
    mine = head.forward
    ids, targets = make_input()
    ids = ids % 32 + 1
    targets = Targets(targets.rows, targets.positions, ids[targets.rows, targets.positions])
    expected = by_definition(model, ids, targets)
    torch.testing.assert_close(forward_statistics(model, ids, targets).double(), expected, rtol=1e-4, atol=1e-5)
    assert head.forward is mine


@torch.inference_mode()
def test_the_head_is_restored_when_the_model_fails():
    model = make_model(LlamaConfig)
    ids, targets = make_input()
    with pytest.raises(IndexError):
        forward_statistics(model, ids + VOCABULARY, targets)
    assert "forward" not in model.lm_head.__dict__


@torch.inference_mode()
def test_gradient_free_scores_do_not_depend_on_the_slice(monkeypatch):
    model = MODELS["llama"]()
    ids, targets = make_input()
    whole = forward_statistics(model, ids, targets)
    monkeypatch.setitem(head_module._SLICE, "cpu", 1)
    torch.testing.assert_close(forward_statistics(model, ids, targets), whole, rtol=1e-5, atol=1e-6)


class ChangesLogitsInPlace(torch.nn.Module):
    """A model whose forward pass caps the very tensor that its head returned."""

    def __init__(self):
        super().__init__()
        self.inner = make_model(LlamaConfig)

    def get_output_embeddings(self):
        return self.inner.lm_head

    def forward(self, **kwargs):
        result = self.inner(**kwargs)
        result.logits.div_(3).tanh_().mul_(3)
        return result


@torch.inference_mode()
def test_a_change_of_the_logits_in_place_is_noticed():
    model = ChangesLogitsInPlace()
    ids, targets = make_input()
    expected = by_definition(model, ids, targets)
    torch.testing.assert_close(forward_statistics(model, ids, targets).double(), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_model_that_changes_logits_is_run_once_a_batch_from_then_on():
    model = make_model(GraniteConfig, logits_scaling=3.0)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    for expected in (2, 3, 4):
        forward_statistics(model, *make_input())
        assert len(calls) == expected
