"""The scripts for a GPU run to their end where there is none, on a toy model."""

from __future__ import annotations

import pytest
import torch
from benchmarks.gpu import scoring, training_step
from benchmarks.gpu.setup import find_setup, measured_peak, scoring_flops

from sage_dpo.forward import TokenizedCompletion
from sage_dpo.planning.cost import Sequences, inference_flops

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="would run the 1.5B model, minutes on a GPU"),
]


@pytest.mark.parametrize("module", [scoring, training_step])
def test_claims_name_the_device_and_aim_at_nothing_with_a_toy_model(module):
    claims = module.benchmark(True)
    assert len(claims) >= 2
    for claim in claims:
        assert claim.claim.startswith("CPU, toy model: ")
        assert claim.required is None
        assert min(claim.ours, claim.peer, claim.ratio) > 0


def test_operations_are_those_of_each_sequence():
    shape = find_setup().model_shape()
    lengths = [(3, 5), (10, 200)]
    completions = [TokenizedCompletion((1,) * prompt, (2,) * answer) for prompt, answer in lengths]
    expected = sum(inference_flops(shape, Sequences(1, *pair)) for pair in lengths)
    assert scoring_flops(shape, completions) == expected


def test_a_processor_multiplies_some_billion_numbers_a_second():
    assert 1e8 < measured_peak(find_setup(), repetitions=3) < 1e14
