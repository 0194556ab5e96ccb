"""Weights that moved are another reference, in whatever way they moved and wherever they stand in memory."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from sage_dpo.training.moving_reference import ReferenceWeights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [1, 5, 64])
def test_every_weight_counts_and_its_place_in_memory_does_not(dtype, size):
    buffer = torch.arange(1, size + 2, dtype=dtype)
    model, other = nn.Module(), nn.Module()
    model.weight = nn.Parameter(buffer[1:])  # begins in the middle of 8 bytes
    other.weight = nn.Parameter(buffer[1:].clone())
    weights, elsewhere = (
        ReferenceWeights(lambda m=m: m, skip_trainable=False, accelerator=Accelerator(cpu=True)) for m in (model, other)
    )
    assert weights.moved() == ""  # nothing to compare with yet
    weights.begin()
    elsewhere.begin()
    assert weights.moved() == ""
    for place in range(size):
        before = model.weight.data[place].item()
        model.weight.data[place] += 1
        other.weight.data[place] += 1
        weights.begin()  # only the first call counts
        assert weights.moved() == elsewhere.moved() != ""
        for one in (model, other):
            one.weight.data[place] = before
    assert weights.moved() == ""
    state = {name: value.clone() for name, value in weights.state_dict().items()}
    model.weight.data.zero_()
    weights.load_state_dict(state)
    assert weights.moved() == ""


def test_trainable_weights_of_an_adapter_run_do_not_count():
    model = nn.ModuleDict({"base": nn.Linear(4, 4).requires_grad_(False), "adapter": nn.Linear(4, 4)})
    weights = ReferenceWeights(lambda: model, skip_trainable=True, accelerator=Accelerator(cpu=True))
    weights.begin()
    model["adapter"].weight.data += 1
    assert weights.moved() == ""
    model["base"].weight.data += 1
    assert weights.moved() != ""
    assert sorted(weights.state_dict()) == ["base.bias", "base.weight"]
