"""Counted uniforms and inverse-CDF sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sage_dpo.rollouts import SamplingParams, sampling
from sage_dpo.rollouts.sampling import TokenSampler, completion_uniforms, inverse_cdf


def test_uniforms_depend_on_every_part_of_the_key() -> None:
    keys = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1)]
    rows = [tuple(completion_uniforms(*key, 8)) for key in keys]
    assert len(set(rows)) == len(keys)
    assert tuple(completion_uniforms(0, 0, "a", 0, 8)) == rows[0]


def test_longer_request_begins_with_the_shorter_one() -> None:
    for short, long in ((1, 2), (3, 10), (7, 1000)):
        assert (completion_uniforms(5, 0, "p", 2, long)[:short] == completion_uniforms(5, 0, "p", 2, short)).all()


def test_uniforms_are_uniform_and_uncorrelated_between_samples() -> None:
    rows = np.stack([completion_uniforms(0, 0, f"p{i}", i % 8, 500) for i in range(40)])
    assert rows.min() >= 0.0
    assert rows.max() < 1.0
    # Standard errors with 20,000 numbers: mean 1/sqrt(12 * 20000) = 0.002, correlation of two rows 1/sqrt(500) = 0.045.
    assert abs(rows.mean() - 0.5) < 0.01
    correlations = np.corrcoef(rows)[np.triu_indices(40, 1)]
    assert np.abs(correlations).max() < 5 * 0.045


def test_inverse_cdf_by_hand() -> None:
    # p = (0.2, 0.5, 0.3), F = (0.2, 0.7, 1.0)
    scores = torch.tensor([0.2, 0.5, 0.3]).log().expand(5, 3)
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71])
    assert inverse_cdf(scores, uniforms).tolist() == [0, 0, 1, 1, 2]


def test_excluded_tokens_are_never_drawn_even_at_the_edges() -> None:
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    largest = np.nextafter(np.float32(1), np.float32(0))
    uniforms = torch.tensor(np.concatenate([[0.0, largest], np.linspace(0, largest, 200)]).astype(np.float32))
    assert set(inverse_cdf(scores.expand(202, 5), uniforms).tolist()) == {1, 3}


def test_one_possible_token_is_certain_at_extreme_scores() -> None:
    scores = torch.tensor([[-1e30, 1e30, 0.0]])
    assert inverse_cdf(scores.expand(3, 3), torch.tensor([0.0, 0.5, 0.9999999])).tolist() == [1, 1, 1]


def test_frequencies_match_the_truncated_distribution() -> None:
    """Temperature 2, top-k 3, then top-p 0.9 of logits log(8, 4, 2, 1): p^(1/2) = (2.83, 2, 1.41, 1), top 3 of them
    normalised (0.453, 0.320, 0.227); the first two reach 0.773 < 0.9, so all three stay."""
    settings = SamplingParams(temperature=2.0, top_k=3, top_p=0.9)
    draws = 20_000
    uniforms = torch.from_numpy(completion_uniforms(0, 0, "p", 0, draws))
    scores = torch.tensor([8.0, 4.0, 2.0, 1.0]).log().expand(draws, 4)
    chosen = TokenSampler(settings)(scores, uniforms)
    frequencies = torch.bincount(chosen, minlength=4) / draws
    weights = torch.tensor([8.0, 4.0, 2.0]).sqrt()
    expected = torch.cat([weights / weights.sum(), torch.zeros(1)])
    # Standard error at most sqrt(0.25 / 20000) = 0.0035.
    assert torch.allclose(frequencies, expected, atol=0.015)
    assert frequencies[3] == 0


def test_top_p_cuts_the_tail() -> None:
    settings = SamplingParams(top_p=0.6)  # p = (0.5, 0.3, 0.2): 0.5 < 0.6 <= 0.8 keeps two
    uniforms = torch.linspace(0, 0.999, 100)
    scores = torch.tensor([0.5, 0.3, 0.2]).log().expand(100, 3)
    chosen = TokenSampler(settings)(scores, uniforms)
    assert set(chosen.tolist()) == {0, 1}


def test_rows_without_a_distribution_get_no_token() -> None:
    logits = torch.tensor([[0.0, 9.0, 0.0, 0.0], [0.0, torch.nan, 0.0, 0.0]])
    for settings in (SamplingParams(temperature=0.0), SamplingParams(), SamplingParams(top_k=2, top_p=0.9)):
        assert TokenSampler(settings)(logits, torch.tensor([0.5, 0.5])).tolist() == [1, -1]


def test_a_row_is_drawn_alike_in_whichever_slice_it_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * 3
    uniforms = torch.from_numpy(completion_uniforms(0, 0, "p", 0, 50))
    for settings in (SamplingParams(temperature=0.7, top_p=0.9), SamplingParams(temperature=0.0)):
        whole = TokenSampler(settings)(logits, uniforms)
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "_SLICE", 300)  # 7 rows
            assert torch.equal(TokenSampler(settings)(logits, uniforms), whole)
