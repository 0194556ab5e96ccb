"""Which problems a pool asks."""

from __future__ import annotations

import pytest

from sage_dpo.pipeline.on_policy import problems_of_pool
from sage_dpo.records import Problem

PROBLEMS = [Problem(str(number), "?", "1") for number in range(5)]


def asked(count: int | None, version: int, of: int = 5) -> str:
    return "".join(problem.id for problem in problems_of_pool(PROBLEMS[:of], count, version))


def test_pools_take_turns() -> None:
    assert [asked(2, version, of=4) for version in (0, 1)] == ["01", "23"]


def test_after_the_last_problem_comes_the_first() -> None:
    assert [asked(2, version) for version in (2, 3, 4, 5)] == ["40", "12", "34", "01"]
    assert asked(4, 1) == "4012"


@pytest.mark.parametrize("count", [None, 5, 6])
def test_every_pool_asks_all_where_no_fewer_are_wanted(count: int | None) -> None:
    assert [asked(count, version) for version in (0, 1, 7)] == ["01234"] * 3


def test_no_pool_asks_a_problem_twice() -> None:
    for count in range(1, 6):
        assert all(len(set(asked(count, version))) == count for version in range(12))
