"""Operations of measured tokens, by hand."""

from __future__ import annotations

from sage_dpo.core.flops import forward_flops, policy_flops, training_flops


def test_a_forward_pass_costs_two_operations_a_parameter_and_token() -> None:
    assert forward_flops(10, 1000) == 2 * 10 * 1000


def test_a_training_pass_costs_three_forward_passes() -> None:
    assert training_flops(10, 1000) == 3 * forward_flops(10, 1000)


def test_policy_by_hand() -> None:
    # 2 * 7 * (1 + 20 + 300) + 6 * 7 * 4000 = 4494 + 168,000
    assert policy_flops(sampled=1, scored=20, reference=300, trained=4000, parameters=7) == 172_494


def test_a_policy_that_nothing_was_done_for_is_free() -> None:
    assert policy_flops(sampled=0, scored=0, reference=0, trained=0, parameters=10**9) == 0


def test_forward_passes_cost_the_same_whatever_they_are_for() -> None:
    none = {"sampled": 0, "scored": 0, "reference": 0, "trained": 0}
    costs = {policy_flops(**{**none, part: 123}, parameters=5) for part in ("sampled", "scored", "reference")}
    assert costs == {forward_flops(123, 5)}
