"""The scorer against a plain loop over unpadded sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.completions import make_completions, score_one

from sage_dpo.forward import as_completions, score_completions
from sage_dpo.forward.head import token_statistics


@pytest.mark.parametrize("token_budget", [1, 64, 100_000])
def test_scores_equal_a_loop_over_single_sequences(tiny_model, token_budget):
    completions = make_completions(17)
    scores = score_completions(tiny_model, completions, token_budget=token_budget)
    expected = np.array([score_one(tiny_model, c) for c in completions])
    np.testing.assert_allclose(scores.logps, expected[:, 0], rtol=1e-4)
    np.testing.assert_allclose(scores.informativeness, expected[:, 1], rtol=1e-4)
    assert scores.lengths.tolist() == [len(c.completion_ids) for c in completions]


@pytest.mark.parametrize("token_budget", [1, 64, 100_000])
def test_without_informativeness_log_probabilities_are_the_same_bit_for_bit(tiny_model, token_budget):
    completions = make_completions(17)
    whole = score_completions(tiny_model, completions, token_budget=token_budget)
    scores = score_completions(tiny_model, completions, token_budget=token_budget, with_informativeness=False)
    assert scores.informativeness is None
    np.testing.assert_array_equal(scores.logps, whole.logps)
    np.testing.assert_array_equal(scores.lengths, whole.lengths)
    assert scores.tokens == whole.tokens


def test_order_does_not_matter(tiny_model):
    completions = make_completions(12)
    forward = score_completions(tiny_model, completions, token_budget=128)
    backward = score_completions(tiny_model, completions[::-1], token_budget=128)
    np.testing.assert_allclose(forward.logps, backward.logps[::-1], rtol=1e-5)


def test_equal_completions_are_run_once(tiny_model):
    completions = make_completions(3)
    scores = score_completions(tiny_model, completions * 4, token_budget=64)
    assert scores.tokens == sum(len(c) for c in completions)
    np.testing.assert_array_equal(scores.logps[:3], scores.logps[9:])


def test_training_mode_is_restored_and_no_gradient_is_kept(tiny_model):
    tiny_model.train()
    try:
        score_completions(tiny_model, make_completions(2), token_budget=64)
        assert tiny_model.training
        assert all(p.grad is None for p in tiny_model.parameters())
    finally:
        tiny_model.eval()


def test_missing_passes_are_run_on_a_dummy_for_other_processes(tiny_model):
    calls = []
    handle = tiny_model.register_forward_hook(lambda *_: calls.append(1))
    try:
        score_completions(tiny_model, [], token_budget=64, synchronize_count=lambda count: count + 3)
    finally:
        handle.remove()
    assert len(calls) == 3


def test_token_statistics_stay_finite_at_extreme_logits():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    logps, informativeness = token_statistics(logits, torch.tensor([0, 0])).unbind(1)
    assert torch.isfinite(logps).all()
    # certain and right: 1 - 2 + 1 = 0; certain and wrong: 1 - 0 + 1 = 2
    np.testing.assert_allclose(informativeness, [0.0, 2.0], atol=1e-6)


def test_completions_of_pairs_are_all_chosen_then_all_rejected():
    columns = {"prompt_ids": [[1], [2]], "chosen_ids": [[3], [4]], "rejected_ids": [[5], [6]]}
    completions = as_completions(columns)
    assert [(c.prompt_ids, c.completion_ids) for c in completions] == [
        ((1,), (3,)),
        ((2,), (4,)),
        ((1,), (5,)),
        ((2,), (6,)),
    ]
