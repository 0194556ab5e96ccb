"""Reference log-probabilities: each completion once, and only of the model they belong to."""

from __future__ import annotations

import contextlib
import copy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.conftest import make_tiny_model

from sage_dpo.forward import TokenizedCompletion
from sage_dpo.selection.reference import ReferenceCache, have_same_weights, model_fingerprint


def test_reference_is_computed_once_per_completion():
    completions = [TokenizedCompletion((row,), (row + 1, 2)) for row in range(4)]
    asked = []

    def compute(missing):
        asked.append(len(missing))
        return np.arange(len(missing), dtype=np.float64) - 1.5

    cache = ReferenceCache("model")
    first = cache.get([completions[0], completions[1], completions[0]], compute)
    second = cache.get(completions, compute)
    assert asked == [2, 2]
    assert first.tolist() == [-1.5, -0.5, -1.5]
    assert second.tolist() == [-1.5, -0.5, -1.5, -0.5]
    restored = ReferenceCache("model")
    restored.load_state_dict(cache.state_dict())
    assert restored.get(completions, compute).tolist() == second.tolist()
    assert asked == [2, 2]


def test_reference_cache_of_another_model_is_refused():
    with pytest.raises(ValueError, match="of reference one, this run's is two"):
        ReferenceCache("two").load_state_dict(ReferenceCache("one").state_dict())


def test_prompt_boundary_is_part_of_the_key():
    cache = ReferenceCache("model")
    cache.add([TokenizedCompletion((1, 2), (3,))], np.array([-1.0]))
    assert TokenizedCompletion((1,), (2, 3)) not in cache


def test_fingerprint_follows_the_weights():
    model = make_tiny_model()
    other = copy.deepcopy(model)
    assert model_fingerprint(model) == model_fingerprint(other)
    with torch.no_grad():
        other.model.norm.weight.add_(1)
    assert model_fingerprint(model) != model_fingerprint(other)


def test_fingerprint_reads_the_values_that_zero_3_holds_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed, by a stand-in: a parameter is empty but for what it says of itself, until it is gathered."""
    whole, spread = make_tiny_model(), make_tiny_model()
    values = {id(p): p.data for p in spread.parameters()}

    @contextlib.contextmanager
    def gathered(parameters):
        for parameter in parameters:
            parameter.data = values[id(parameter)]
        yield
        for parameter in parameters:
            parameter.data = torch.empty(0)

    for parameter in spread.parameters():
        parameter.ds_shape, parameter.data = parameter.shape, torch.empty(0)
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(zero=SimpleNamespace(GatheredParameters=gathered)))
    assert model_fingerprint(spread) == model_fingerprint(whole)
    assert {p.numel() for p in spread.parameters()} == {0}
    values[id(spread.model.norm.weight)] += 1
    assert model_fingerprint(spread) != model_fingerprint(whole)


def test_a_few_edited_rows_make_another_model_though_a_sampled_fingerprint_passes_over_them():
    model, other = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
    other.load_state_dict(model.state_dict())
    assert have_same_weights(model, other)
    with torch.no_grad():
        other.weight[3, 1] += 1e-3  # every second value is read
    assert model_fingerprint(model, samples_per_tensor=2048) == model_fingerprint(other, samples_per_tensor=2048)
    assert not have_same_weights(model, other)
    assert not have_same_weights(model, torch.nn.Linear(64, 64, bias=False))
    assert not have_same_weights(model, other.double())
