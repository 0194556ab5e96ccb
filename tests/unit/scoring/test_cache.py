"""The cache of reference log-probabilities."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests.support.completions import make_completions
from tests.support.tiny import make_tiny_model

from sage_dpo.forward import TokenizedCompletion
from sage_dpo.forward import ReferenceCache, model_fingerprint


def test_reference_is_computed_once_per_completion(tmp_path):
    completions = make_completions(4)
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
    cache.save(tmp_path / "reference.npz")
    restored = ReferenceCache("model")
    restored.load(tmp_path / "reference.npz")
    assert restored.get(completions, compute).tolist() == second.tolist()
    assert asked == [2, 2]


def test_reference_cache_of_another_model_is_refused(tmp_path):
    ReferenceCache("one").save(tmp_path / "reference.npz")
    with pytest.raises(ValueError, match="of reference one, this run's is two"):
        ReferenceCache("two").load(tmp_path / "reference.npz")


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
