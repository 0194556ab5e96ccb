"""Expected pools, by hand and by counting."""

from __future__ import annotations

import numpy as np
import pytest

from sage_dpo.planning.pool_size import PoolSize, distinct_completions, distinct_pairs, expected_pool

UNSHARED = PoolSize(100, 200)


def test_pool_by_hand() -> None:
    # K = 4, bound 3: 1 x 3 -> 3 pairs of 1 + 3; 2 x 2 -> 3 of 2 + 2; 3 x 1 -> 3 of 3 + 1
    assert expected_pool(10, 4, bound=3, mixed_share=0.5) == PoolSize(5 * 3, 5 * 4)


def test_a_problem_has_no_more_pairs_than_combinations() -> None:
    assert expected_pool(10, 2, bound=4, mixed_share=1.0) == PoolSize(10, 20)
    assert expected_pool(10, 1, bound=4, mixed_share=1.0) == PoolSize(10, 20)  # with a reference solution


def test_no_mixed_problem_no_pool() -> None:
    pool = expected_pool(10, 8, bound=4, mixed_share=0.0)
    assert pool == PoolSize(0, 0)
    assert distinct_pairs(pool, 64) == distinct_completions(pool, 1) == 0


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"bound": 0}, {"mixed_share": 1.5}])
def test_impossible_pools_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        expected_pool(10, **{"samples": 8, "bound": 4, "mixed_share": 0.5, **wrong})  # type: ignore[arg-type]


def test_within_the_first_cycle_every_candidate_is_new() -> None:
    assert distinct_pairs(UNSHARED, 30) == pytest.approx(30)
    assert distinct_pairs(UNSHARED, 30, keep_ratio=0.5) == pytest.approx(15)
    assert distinct_pairs(UNSHARED, 1000) == pytest.approx(100)


def test_later_cycles_keep_fewer_new_pairs() -> None:
    # two cycles at gamma = 1/2: 100 (1 - 1/4); two and a half: half of the pairs had three chances
    assert distinct_pairs(UNSHARED, 200, keep_ratio=0.5) == pytest.approx(75)
    assert distinct_pairs(UNSHARED, 250, keep_ratio=0.5) == pytest.approx(0.5 * 75 + 0.5 * 87.5)


def test_without_sharing_a_pair_holds_two_completions() -> None:
    assert distinct_completions(UNSHARED, 30) == pytest.approx(60)
    assert distinct_completions(UNSHARED, 100) == pytest.approx(200)


def test_sharing_agrees_with_counting() -> None:
    # 500 problems of 2 x 2 completions, all four combinations: 2,000 pairs of 2,000 completions; 300 pairs drawn
    pairs = [((p, "c", i), (p, "r", j)) for p in range(500) for i in range(2) for j in range(2)]
    rng = np.random.default_rng(0)
    counts = [len({side for i in rng.choice(2000, 300, replace=False) for side in pairs[i]}) for _ in range(20)]
    assert distinct_completions(PoolSize(2000, 2000), 300) == pytest.approx(np.mean(counts), rel=0.01)
