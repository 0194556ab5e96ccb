"""Means over seeds and differences paired by seed."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.outcomes import outcome

from sage_dpo.config import validate
from sage_dpo.errors import ConfigError
from sage_dpo.studies.comparisons import arm_values, compare, difference
from sage_dpo.studies.config import StudyConfig
from sage_dpo.studies.outcomes import ArmOutcome

OUTCOMES = [
    outcome("vanilla", 1, 0.40),
    outcome("sage", 1, 0.60, at_steps={2: 0.50, 4: 0.60}, best={"step": 2, "average": 0.70}, flops=7.0),
    outcome("vanilla", 2, 0.50),
    outcome("sage", 2, 0.80, at_steps={2: 0.55, 4: 0.80}, best={"step": 4, "average": 0.80}, flops=9.0),
]


def study(**comparisons: dict[str, str]) -> StudyConfig:
    values = {"name": "s", "title": "t", "recipe": "r", "seeds": [1, 2], "comparisons": comparisons}
    return validate(StudyConfig, values)


def compared(outcomes: list[ArmOutcome] = OUTCOMES, seeds: tuple[int, ...] = (1, 2), **names: Any) -> dict[str, Any]:
    return compare(study(**names), outcomes, seeds, "base", "sage")


def test_difference_by_hand() -> None:
    # 0.2 and 0.3: mean 0.25, s / sqrt(2) = 0.05, t(1) = 12.7062
    entry = difference([0.6, 0.8], [0.4, 0.5])
    assert entry["values"] == pytest.approx([0.2, 0.3])
    assert entry["mean"] == pytest.approx(0.25)
    assert (entry["low"], entry["high"]) == pytest.approx((0.25 - 0.63531, 0.25 + 0.63531), abs=1e-5)


def test_difference_of_one_seed_has_no_bounds() -> None:
    assert difference([0.75], [0.5]) == {"mean": 0.25, "low": None, "high": None, "values": [0.25]}


def test_values_are_listed_in_the_order_of_the_seeds() -> None:
    arms = arm_values(OUTCOMES, [2, 1])
    assert arms["sage"]["average"] == [0.80, 0.60]
    assert arms["sage"]["suites"] == {"short": [0.80, 0.60]}
    assert arms["sage"]["flops"] == [9.0, 7.0]


def test_the_first_role_is_compared_with_every_other() -> None:
    result = compared(final={"ours": "sage", "base": "vanilla", "early": "sage:2"})
    assert list(result["final"]) == ["ours_minus_base", "ours_minus_early"]
    assert result["final"]["ours_minus_base"]["values"] == pytest.approx([0.2, 0.3])
    assert result["final"]["ours_minus_early"]["values"] == pytest.approx([0.1, 0.25])


def test_the_last_step_is_the_arm_itself() -> None:
    result = compared(final={"end": "sage:4", "arm": "sage"})
    assert result["final"]["end_minus_arm"]["values"] == [0.0, 0.0]


def test_each_seed_has_a_best_probe_of_its_own() -> None:
    result = compared(final={"best": "sage:best", "base": "vanilla"})
    assert result["final"]["best_minus_base"]["values"] == pytest.approx([0.3, 0.3])


def test_an_arm_without_a_best_probe_is_an_error_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"'base/vanilla:best' was not evaluated; switch on evaluation.at_best"):
        compared(final={"a": "sage", "b": "vanilla:best"})


def test_a_label_may_reach_into_another_condition() -> None:
    other = [outcome("sage", seed, 0.9, condition="more") for seed in (1, 2)]
    result = compared([*OUTCOMES, *other], data={"more": "more/sage", "base": "sage"})
    assert result["data"]["more_minus_base"]["values"] == pytest.approx([0.3, 0.1])


def test_roles_of_arms_that_do_not_take_part_are_left_out() -> None:
    result = compared(final={"a": "sage", "b": "absent", "c": "vanilla"}, other={"a": "absent", "b": "sage"})
    assert {name: list(entries) for name, entries in result.items()} == {"final": ["a_minus_c"]}


def test_without_comparisons_sage_meets_every_other_arm() -> None:
    assert {name: list(entries) for name, entries in compared().items()} == {"final": ["sage_minus_vanilla"]}


def test_a_single_arm_has_nothing_to_be_compared_with() -> None:
    assert compared([outcome("sage", 1), outcome("sage", 2)]) == {}


def test_a_step_that_was_not_evaluated_is_an_error_that_names_the_others() -> None:
    with pytest.raises(ConfigError, match=r"sage:3'.* was evaluated at steps \[2, 4\]; add 3 to evaluation.at_steps"):
        compared(final={"a": "sage:3", "b": "vanilla"})


def test_an_arm_without_evaluation_cannot_be_compared() -> None:
    outcomes = [outcome("sage", 1, None), outcome("vanilla", 1, None)]
    with pytest.raises(ConfigError, match="evaluation is switched off"):
        compared(outcomes, (1,), final={"a": "sage", "b": "vanilla"})
