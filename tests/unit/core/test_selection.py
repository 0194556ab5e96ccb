from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dpo.core.selection import gate_threshold, kept_count, open_pairs, select_top
from sage_dpo.errors import NumericalError


def test_kept_count_by_hand() -> None:
    # 0.5 * 64 = 32; 0.5 * 5 = 2.5 -> 3; 0.29 * 50 = 14.5 -> 15 (14.499999999999998 in float); at least 1; all
    assert [kept_count(*x) for x in ((64, 0.5), (5, 0.5), (50, 0.29), (3, 0.01), (7, 1.0))] == [32, 3, 15, 1, 7]


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_keep_fraction_outside_its_range_is_rejected(fraction: float) -> None:
    with pytest.raises(ValueError, match="0 < fraction <= 1"):
        kept_count(10, fraction)


def test_global_cut_by_hand() -> None:
    assert select_top(np.array([0.1, 5.0, -2.0, 3.0]), 2).tolist() == [1, 3]


def test_cut_within_strata_by_hand() -> None:
    # 4 + 2 candidates, keep 3: quotas 2 and 1. Stratum 0 holds 9, 8, 7, 6, stratum 2 holds 1, 2.
    utilities = np.array([9.0, 1.0, 8.0, 7.0, 2.0, 6.0])
    strata = np.array([0, 2, 0, 0, 2, 0], dtype=np.int8)
    assert select_top(utilities, 3, strata=strata).tolist() == [0, 2, 4]
    assert select_top(utilities, 3).tolist() == [0, 2, 3]


def test_ties_go_to_the_smaller_key_then_to_the_lower_index() -> None:
    utilities = np.array([1.0, 0.0, 1.0, 1.0])
    assert select_top(utilities, 2).tolist() == [0, 2]
    assert select_top(utilities, 2, tie_break=np.array([3.0, 0.0, 2.0, 1.0])).tolist() == [2, 3]
    assert select_top(utilities, 2, tie_break=np.array([1.0, 0.0, 1.0, 0.0])).tolist() == [0, 3]


def test_infinite_utilities_are_ordered() -> None:
    assert select_top(np.array([-np.inf, 0.0, np.inf, -np.inf]), 3).tolist() == [0, 1, 2]


def test_keeping_none_or_all() -> None:
    utilities, strata = np.array([3.0, 1.0]), np.array([0, 1])
    assert select_top(utilities, 0).tolist() == select_top(utilities, 0, strata=strata).tolist() == []
    assert select_top(utilities, 2).tolist() == select_top(utilities, 2, strata=strata).tolist() == [0, 1]
    assert select_top(np.array([]), 0, strata=np.array([], dtype=np.int8)).tolist() == []


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_partition_agrees_with_a_full_sort(values: list[int], data: st.DataObject) -> None:
    utilities, keep = np.array(values, dtype=np.float64), data.draw(st.integers(0, len(values)))
    key = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values))))
    order = np.lexsort((np.arange(len(values)), key, -utilities))
    assert select_top(utilities, keep, tie_break=key).tolist() == sorted(order[:keep].tolist())


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 2)), min_size=1, max_size=60), st.data())
def test_strata_share_the_cut_in_proportion(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    utilities, strata = np.array([r[0] for r in rows], dtype=np.float64), np.array([r[1] for r in rows], dtype=np.int8)
    keep = data.draw(st.integers(0, len(rows)))
    kept = select_top(utilities, keep, strata=strata)
    assert len(set(kept.tolist())) == keep
    for code in range(3):
        inside = kept[strata[kept] == code]
        outside = np.setdiff1d(np.flatnonzero(strata == code), inside)
        assert abs(inside.size - keep * (strata == code).mean()) < 1 + 1e-9
        if inside.size and outside.size:
            assert utilities[inside].min() >= utilities[outside].max()


def test_nan_is_counted_and_located() -> None:
    with pytest.raises(NumericalError, match=r"2 of 4 utilities are NaN, at rows \[1, 3\]"):
        select_top(np.array([0.0, np.nan, 1.0, np.nan]), 1)
    with pytest.raises(NumericalError, match="tie_break"):
        select_top(np.array([0.0, 1.0]), 1, tie_break=np.array([0.0, np.nan]))


def test_invalid_sizes_are_rejected() -> None:
    with pytest.raises(ValueError, match="keep is 3"):
        select_top(np.array([0.0, 1.0]), 3)
    with pytest.raises(ValueError, match="strata have shape"):
        select_top(np.array([0.0, 1.0]), 1, strata=np.array([0]))


def test_ten_million_candidates_are_cut_in_seconds() -> None:
    utilities = np.random.default_rng(0).random(10_000_000)
    begun = time.perf_counter()
    kept = select_top(utilities, 5_000_000)
    assert time.perf_counter() - begun < 10  # 0.5 s when measured; a Python loop would take minutes
    assert utilities[kept].min() > np.delete(utilities, kept).max()


def test_the_gate_is_a_quantile_of_sureness_and_leaves_what_is_not_above_it_open() -> None:
    margins = np.array([4.0, 0.0, -3.0, 1.0, -2.0])  # sizes sorted 0 1 2 3 4: the 0.75 quantile is at place 3
    assert gate_threshold(margins, 0.75) == 3.0
    assert open_pairs(margins, 3.0).tolist() == [False, True, True, True, True]
    assert gate_threshold(np.array([-3.0, -2.0, -1.0]), 0.5) == 2.0  # all ranked wrong: all open


def test_the_gate_by_quantile_does_not_depend_on_the_scale_of_the_margins() -> None:
    margins = np.random.default_rng(0).normal(size=101)
    kept = [open_pairs(tau * margins, gate_threshold(tau * margins, 0.7)).tolist() for tau in (1.0, 8.0)]
    assert kept[0] == kept[1]
    with pytest.raises(NumericalError, match="1 of 2 margins are NaN"):
        gate_threshold(np.array([0.0, np.nan]), 0.5)
