"""Costs add up and survive a file."""

from __future__ import annotations

import json

from sage_dpo.costs import COSTS, Costs

POOL = Costs(generated_tokens=5, wall_s=2.0, wall_breakdown={"first-pool": 2.0}, flops=10.0)
TRAINED = Costs(100, 200, 50, 7, 30.0, {"training": 30.0, "probe": 4.0}, 1000.0, 64, 32)


def test_costs_add_field_by_field_and_part_by_part() -> None:
    total = TRAINED + POOL + POOL
    assert total == Costs(
        100, 200, 50, 17, 34.0, {"training": 30.0, "probe": 4.0, "first-pool": 4.0}, 1020.0, 64, 32
    )  # fmt: skip


def test_nothing_is_the_neutral_element() -> None:
    assert TRAINED + Costs() == Costs() + TRAINED == TRAINED


def test_costs_come_back_from_a_summary_that_holds_more() -> None:
    row = json.loads(json.dumps({"average": 0.5, **TRAINED.as_dict(), "steps": 3}))
    assert Costs.from_dict(row) == TRAINED
    assert Costs.from_dict({"flops": 2.0}) == Costs(flops=2.0)


def test_the_keys_are_those_that_results_are_published_with() -> None:
    assert set(COSTS) == {
        "train_tokens", "scored_tokens", "reference_tokens", "generated_tokens", "wall_s", "flops", "candidate_pairs",
        "kept_pairs",
    }  # fmt: skip
