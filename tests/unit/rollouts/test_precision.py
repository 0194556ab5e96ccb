"""bfloat16 weights are held in float32 where the processor has no instructions for bfloat16, and only meanwhile."""

from __future__ import annotations

import contextlib
import platform
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.support.tiny import make_tiny_model

from sage_dpo.records import Problem
from sage_dpo.rollouts import SamplingParams, build_prompts
from sage_dpo.rollouts.precision import fastest_precision
from sage_dpo.rollouts.transformers import TransformersEngine


@pytest.fixture
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": False}, raising=False)


@pytest.mark.usefixtures("without_bfloat16")
def test_weights_are_exchanged_and_put_back() -> None:
    model = get_peft_model(make_tiny_model(), LoraConfig(r=2, target_modules="all-linear")).to(torch.bfloat16).train()
    before = dict(model.named_parameters())
    ids = torch.tensor([[5, 6, 7]])
    with contextlib.suppress(KeyboardInterrupt), fastest_precision(model):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert embedding is head  # tied as before
        assert torch.equal(embedding.bfloat16(), before["base_model.model.model.embed_tokens.weight"])
        assert model(ids).logits.dtype == torch.float32
        raise KeyboardInterrupt
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    model(ids).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.usefixtures("without_bfloat16")
def test_completions_are_those_of_the_same_weights_in_float32(tiny_tokenizer: Any) -> None:
    prompts = build_prompts([Problem(f"p{n}", f"{n} + 1", "1") for n in range(20)], tiny_tokenizer)
    settings = SamplingParams(samples=3, max_new_tokens=20)
    policy, rounded = make_tiny_model().to(torch.bfloat16), make_tiny_model().to(torch.bfloat16).float()
    ours, theirs = (
        TransformersEngine(model, tiny_tokenizer).sample(prompts, settings=settings, seed=0)
        for model in (policy, rounded)
    )
    assert ours == theirs
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("machine", "capabilities"), [("x86_64", {"amx_bf16": True}), ("x86_64", {}), ("aarch64", {"avx512_bf16": False})]
)
def test_weights_stay_where_bfloat16_has_instructions_or_nothing_is_known(
    machine: str, capabilities: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    model = make_tiny_model().to(torch.bfloat16)
    with fastest_precision(model):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
