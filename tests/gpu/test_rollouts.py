"""In-process rollouts on a CUDA device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.tiny import make_tiny_model

from sage_dpo.records import Problem
from sage_dpo.rollouts import SamplingParams, build_prompts
from sage_dpo.rollouts.transformers import TransformersEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_completions_repeat_and_leave_the_generators_alone(dtype: torch.dtype, tiny_tokenizer: Any) -> None:
    model = make_tiny_model().to("cuda", dtype)
    prompts = build_prompts([Problem(f"p{n}", " ".join(["1"] * (1 + n % 7)), "1") for n in range(40)], tiny_tokenizer)
    settings = SamplingParams(samples=4, temperature=0.8, top_p=0.9, max_new_tokens=60)
    engine = TransformersEngine(model, tiny_tokenizer, batch_size=64)
    before = torch.cuda.get_rng_state()
    first = engine.sample(prompts, settings=settings, seed=1)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert engine.sample(prompts, settings=settings, seed=1) == first


def test_most_completions_equal_those_of_the_cpu(tiny_tokenizer: Any) -> None:
    """Rounding differs between devices, the random numbers do not."""
    prompts = build_prompts([Problem(f"p{n}", f"{n % 30} + 1", "1") for n in range(40)], tiny_tokenizer)
    settings = SamplingParams(samples=4, max_new_tokens=40)
    cpu, cuda = (
        TransformersEngine(make_tiny_model().to(device), tiny_tokenizer).sample(prompts, settings=settings, seed=1)
        for device in ("cpu", "cuda")
    )
    assert sum(a == b for a, b in zip(cpu, cuda, strict=True)) >= 0.95 * len(cpu)
