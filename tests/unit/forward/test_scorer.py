"""The scorer against a plain loop over unpadded sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.completions import make_completions, score_one

from sage_dpo.forward import as_completions, padding_ratio, score_completions, token_budget_batches
from sage_dpo.forward.head import token_statistics


@pytest.mark.parametrize("token_budget", [1, 64, 100_000])
def test_scores_equal_a_loop_over_single_sequences(tiny_model, token_budget):
    completions = make_completions(17)
    scores = score_completions(tiny_model, completions, token_budget=token_budget)
    expected = np.array([score_one(tiny_model, c) for c in completions])
    np.testing.assert_allclose(scores.logps, expected[:, 0], rtol=1e-4)
    np.testing.assert_allclose(scores.informativeness, expected[:, 1], rtol=1e-4)
    assert scores.lengths.tolist() == [len(c.completion_ids) for c in completions]


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


def test_batches_hold_every_sequence_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 300, size=500)
    batches = token_budget_batches(lengths, token_budget=1000)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(len(b) * lengths[b].max() <= 1000 for b in batches)
    assert padding_ratio(lengths, batches) < 1.1


def test_a_sequence_over_the_budget_is_a_batch_of_its_own():
    batches = token_budget_batches(np.array([5, 500, 5]), token_budget=10)
    assert [b.tolist() for b in batches] == [[1], [0, 2]]


def test_a_batch_holds_no_more_padding_than_its_limit():
    lengths = np.array([10, 9, 7, 7, 2, 1])
    # 10, 9, 7: padding 0 + 1 + 3, another 7 would make it 7; 7, 2 would be 5, so 7 alone; 2, 1: 1
    assert [b.tolist() for b in token_budget_batches(lengths, token_budget=99, padding_limit=4)] == [
        [0, 1, 2],
        [3],
        [4, 5],
    ]
    assert padding_ratio(lengths, token_budget_batches(lengths, token_budget=99, padding_limit=0)) == 1.0
    assert len(token_budget_batches(lengths, token_budget=99)) == 3  # 99 // 16 = 6: padding 4, 5, 0


def test_default_padding_is_at_most_a_sixteenth_of_the_budget():
    lengths = np.random.default_rng(0).lognormal(5.3, 0.9, size=400).astype(int) + 1
    for batch in token_budget_batches(lengths, token_budget=4096):
        assert len(batch) * lengths[batch].max() - lengths[batch].sum() <= 256


def test_negative_padding_limit_is_refused():
    with pytest.raises(ValueError, match="padding_limit is -1"):
        token_budget_batches(np.array([1]), token_budget=10, padding_limit=-1)


def test_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="token_budget is 0"):
        token_budget_batches(np.array([1]), token_budget=0)


def test_completions_of_pairs_are_all_chosen_then_all_rejected():
    columns = {"prompt_ids": [[1], [2]], "chosen_ids": [[3], [4]], "rejected_ids": [[5], [6]]}
    completions = as_completions(columns)
    assert [(c.prompt_ids, c.completion_ids) for c in completions] == [
        ((1,), (3,)),
        ((2,), (4,)),
        ((1,), (5,)),
        ((2,), (6,)),
    ]
