"""Pairs become columns: what they hold, what they cost, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.tiny import make_tiny_model

from sage_dpo.errors import DataError, NumericalError
from sage_dpo.forward import as_completions, score_completions
from sage_dpo.selection.models import LoadedModels
from sage_dpo.selection.scoring import PairScorer, check_finite, estimate_success_rates, pair_id

PAIRS = {
    "id": ["a", "b"],
    "prompt_ids": [[6, 7], [8]],
    "chosen_ids": [[9, 4], [10, 11, 4]],
    "rejected_ids": [[12, 4], [9, 4]],
}
TOKENS = (2 + 2) + (1 + 3) + (2 + 2) + (1 + 2)


def scorer(*, reference: bool = False) -> PairScorer:
    other = make_tiny_model(seed=1) if reference else None
    return PairScorer(LoadedModels(make_tiny_model(), other, token_budget=64))


def test_columns_hold_the_policys_and_the_references_log_probabilities():
    columns, reused = scorer(reference=True).score(PAIRS, with_reference=True)
    completions = as_completions(PAIRS)
    policy = score_completions(make_tiny_model(), completions, token_budget=64).logps
    reference = score_completions(make_tiny_model(seed=1), completions, token_budget=64).logps
    np.testing.assert_array_equal(columns.chosen_logps, policy[:2])
    np.testing.assert_array_equal(columns.rejected_logps, policy[2:])
    np.testing.assert_array_equal(columns.ref_chosen_logps, reference[:2])
    np.testing.assert_array_equal(columns.ref_rejected_logps, reference[2:])
    assert reused == 0.0


def test_tokens_are_counted_and_a_reference_is_scored_once():
    pairs = scorer(reference=True)
    for _ in range(2):
        pairs.score(PAIRS, with_reference=True)
    assert (pairs.counts.scored, pairs.counts.reference) == (2 * TOKENS, TOKENS)


def test_the_untrained_policy_is_the_reference_until_it_has_taken_a_step():
    pairs = scorer()
    np.testing.assert_array_equal(
        pairs.reference_logps(as_completions(PAIRS)),
        score_completions(make_tiny_model(), as_completions(PAIRS), token_budget=64).logps,
    )
    pairs.counts.trained_pairs = 2
    assert not pairs.policy_is_reference
    others = as_completions({**PAIRS, "prompt_ids": [[13], [14]]})
    with pytest.raises(DataError, match="4 completions have no precomputed reference"):
        pairs.reference_logps(others)


def test_estimated_success_rates_are_ranks_and_serve_as_reference():
    pairs = scorer()
    rates = estimate_success_rates(pairs.survey(PAIRS, label="scoring"), temperature=1.0)
    assert rates.tolist() in ([0.25, 0.75], [0.75, 0.25])  # (rank - 1/2) / 2
    pairs.reference_logps(as_completions(PAIRS))
    assert pairs.counts.reference == 0


def test_numbers_that_are_not_finite_name_the_pairs():
    with pytest.raises(NumericalError, match=r"1 policy log-probabilities .* at step 3 \(pairs \['b'\]\)"):
        check_finite(np.array([0.0, 0.0, 0.0, np.nan]), PAIRS, "policy", 3)
    check_finite(np.zeros(4), PAIRS, "policy", 3)


def test_pairs_without_an_id_go_by_their_row():
    assert pair_id(PAIRS, 1, 17) == "b"
    assert pair_id({"prompt_ids": [[1]]}, 0, 17) == "17"
