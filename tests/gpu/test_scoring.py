"""Scoring on a CUDA device against the CPU: TRL's kernel for the head, and sequences end to end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.completions import make_completions, make_shared_completions, tokens_run
from tests.support.tiny import make_tiny_model

from sage_dpo.forward import score_completions
from sage_dpo.forward.packing import supports_packing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 3e-2)])
def test_scores_are_those_of_the_cpu(attention: str, dtype: torch.dtype, tolerance: float) -> None:
    completions = make_completions(40)
    expected = score_completions(make_tiny_model(), completions, token_budget=1000)
    model = make_tiny_model().to("cuda", dtype)
    model.set_attn_implementation(attention)
    assert supports_packing(model) is (attention == "flex_attention")
    found = score_completions(model, completions, token_budget=1000, device="cuda")
    np.testing.assert_allclose(found.logps, expected.logps, rtol=tolerance)
    np.testing.assert_allclose(found.informativeness, expected.informativeness, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 3e-2)])
def test_scores_with_shared_prompts_are_those_of_the_cpu(dtype: torch.dtype, tolerance: float) -> None:
    completions = make_shared_completions(prompts=12, longest=40)
    expected = score_completions(make_tiny_model(), completions, token_budget=1)
    model = make_tiny_model().to("cuda", dtype)
    assert sum(tokens_run(completions, 1000, model)) < expected.tokens
    found = score_completions(model, completions, token_budget=1000, device="cuda")
    np.testing.assert_allclose(found.logps, expected.logps, rtol=tolerance)
    np.testing.assert_allclose(found.informativeness, expected.informativeness, rtol=tolerance)
