"""Which sequences run in which forward pass, for scoring and for training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.flash import uses_flash_attention
from tests.support.tiny import make_tiny_model

from sage_dpo.forward import prefix_sharing
from sage_dpo.forward.layout import choose_layout
from sage_dpo.forward.prefix_sharing import Segment

A, B = tuple(range(20)), tuple(range(30, 50))
PROMPTS = [A, B, A, A]
LENGTHS = np.array([25, 40, 30, 22])


def uses(attention: str) -> torch.nn.Module:
    model = make_tiny_model()
    model.config._attn_implementation = attention
    return model


def layout(model, prompts=PROMPTS, lengths=LENGTHS, **options):
    found = choose_layout(model, prompts, lengths, device="cpu", **options)
    assert sorted(i for one in found.passes for i in one.members.tolist()) == list(range(len(lengths)))
    return found


def members(found) -> list[list[int]]:
    return [one.members.tolist() for one in found.passes]


def test_prompts_are_shared_where_that_saves_enough():
    found = layout(make_tiny_model())
    assert found.kind == "prefix_sharing"
    assert members(found) == [[0, 1, 2, 3]]
    assert found.passes[0].segments == [Segment(25, 0, 0), Segment(40, 0, 1), Segment(11, 19, 0), Segment(3, 19, 0)]
    found = layout(make_tiny_model(), token_budget=40)
    assert members(found) == [[1], [0, 2, 3]]  # 25 + 11 + 3 = 39
    assert found.passes[1].segments == [Segment(25, 0, 0), Segment(11, 19, 0), Segment(3, 19, 0)]


@pytest.mark.parametrize("allows_groups", [True, False])
@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_sequences_run_end_to_end_where_attention_can_and_nothing_is_saved(attention, allows_groups):
    prompts = [(number,) * 20 for number in range(4)]
    found = layout(uses(attention), prompts, allows_groups=allows_groups)
    assert found.kind == "packed"
    assert members(found) == [[0, 1, 2, 3]]  # in their order
    assert found.passes[0].segments == [Segment(length, 0, row) for row, length in enumerate(LENGTHS)]
    assert members(layout(uses(attention), prompts, token_budget=65)) == [[1], [2, 0], [3]]


def test_other_attention_runs_groups_of_similar_length():
    found = layout(uses("eager"), padding_limit=5)
    assert found.kind == "grouped"
    assert members(found) == [[1], [2, 0], [3]]
    assert all(one.segments is None for one in found.passes)
    assert members(layout(uses("eager"), padding_limit=1000)) == [[1, 2, 0, 3]]
    assert members(layout(uses("eager"), padding_limit=1000, token_budget=80)) == [[1, 2], [0, 3]]


def test_where_groups_are_not_allowed_prefixes_are_shared_whatever_that_saves_or_rows_are_padded(monkeypatch):
    monkeypatch.setattr(prefix_sharing, "MIN_SAVED_SHARE", 2.0)
    assert layout(make_tiny_model()).kind == "grouped"
    assert layout(make_tiny_model(), allows_groups=False).kind == "prefix_sharing"
    assert layout(uses_flash_attention(make_tiny_model()), allows_groups=False).kind == "packed"
    found = layout(uses("eager"), allows_groups=False)
    assert found.kind == "padded"
    assert members(found) == [[0, 1, 2, 3]]


def test_nothing_takes_no_pass():
    nothing = np.array([], dtype=np.int64)
    for attention in ("sdpa", "eager", "flex_attention"):
        assert choose_layout(uses(attention), [], nothing, device="cpu", token_budget=8).passes == []
