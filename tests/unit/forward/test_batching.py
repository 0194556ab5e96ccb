"""Batches under a token budget: by length, end to end, and by prompt."""

from __future__ import annotations

import numpy as np
import pytest

from sage_dpo.forward.batching import group_by_prompt, packed_batches, prompt_batches, token_budget_batches


def padding_ratio(lengths, batches):
    return sum(len(b) * lengths[b].max() for b in batches) / lengths.sum()


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


def test_packed_batches_by_hand():
    # 9 + 7 = 16; 5 + 5 + 4 = 14, and 3 more would be 17; a sequence longer than the budget is alone
    lengths = np.array([5, 9, 4, 7, 5, 3, 20])
    assert [b.tolist() for b in packed_batches(lengths, token_budget=16)] == [[6], [1, 3], [0, 4, 2], [5]]
    assert packed_batches(np.array([], dtype=np.int64), token_budget=16) == []
    with pytest.raises(ValueError, match="token_budget is 0"):
        packed_batches(lengths, token_budget=0)


def test_groups_by_hand():
    # b's second sequence has 7 tokens, 4 of them the prompt's: it adds 4, and 6 + 4 = 10
    prompts, lengths = ["aaa", "bbbb", "aaa", "cccc", "aaa"], np.array([5, 6, 8, 7, 9])
    group = lambda budget: [g.tolist() for g in group_by_prompt(prompts, lengths, token_budget=budget)]  # noqa: E731
    assert group(1000) == [[0, 2, 4], [1], [3]]
    assert group(18) == [[0, 2, 4], [1], [3]]  # 5 + 6 + 7
    assert group(17) == [[0, 2], [1], [3], [4]]
    assert group(1) == [[0], [1], [2], [3], [4]]


def test_prompt_batches_by_hand():
    # in a row, a's three take 5 + 6 + 7 = 18 tokens, b's one 6, c's one 7
    prompts, lengths = ["aaa", "bbbb", "aaa", "cccc", "aaa"], np.array([5, 6, 8, 7, 9])
    batch = lambda budget: [b.tolist() for b in prompt_batches(prompts, lengths, token_budget=budget)]  # noqa: E731
    assert batch(31) == [[0, 2, 4, 3, 1]]
    assert batch(25) == [[0, 2, 4, 3], [1]]
    assert batch(18) == [[0, 2, 4], [3, 1]]
    assert batch(1) == [[4], [2], [3], [1], [0]]
    assert prompt_batches([], np.array([], dtype=np.int64), token_budget=1) == []
