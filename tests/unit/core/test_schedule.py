from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dpo.core.schedule import allocate, competence_position, stratum_weights


def test_weights_by_hand() -> None:
    # a quarter of the way: 3/4 * (1, 0, 0) + 1/4 * (0, 0.4, 0.6) = (0.75, 0.1, 0.15)
    assert stratum_weights((1, 0, 0), (0, 0.4, 0.6), 0.25).tolist() == pytest.approx([0.75, 0.1, 0.15])


def test_weights_reach_both_ends() -> None:
    start, end = (0.5, 0.3, 0.2), (0.1, 0.3, 0.6)
    assert stratum_weights(start, end, 0.0).tolist() == pytest.approx(start)
    assert stratum_weights(start, end, 1.0).tolist() == pytest.approx(end)


@given(st.floats(0, 1))
def test_weights_are_a_distribution_everywhere(position: float) -> None:
    weights = stratum_weights((0.5, 0.3, 0.2), (0.0, 0.1, 0.9), position)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()


def test_competence_position_by_hand() -> None:
    assert competence_position(0.37) == pytest.approx(0.37)
    assert competence_position(0.5, start=0.4, target=0.8) == pytest.approx(0.25)  # 0.1 of 0.4
    assert [competence_position(c, start=0.4, target=0.8) for c in (0.1, 0.95)] == [0.0, 1.0]


def test_allocation_by_hand() -> None:
    # quotas 3.5, 2.1, 1.4: floors 3, 2, 1, the missing one goes to the largest remainder .5
    assert allocate(7, (0.5, 0.3, 0.2), (10, 10, 10)).tolist() == [4, 2, 1]


def test_an_empty_stratum_is_shared_out_by_weight() -> None:
    # 8 over weights 0.3 : 0.1 -> 6 : 2
    assert allocate(8, (0.6, 0.3, 0.1), (0, 10, 10)).tolist() == [0, 6, 2]


def test_a_small_stratum_gives_all_it_has() -> None:
    # quota 5, 3, 2; the first holds 1, so 9 over 0.3 : 0.2 -> 5.4 : 3.6 -> 5 : 4
    assert allocate(10, (0.5, 0.3, 0.2), (1, 10, 10)).tolist() == [1, 5, 4]
    # quota 3, 1.8, 1.2; the first holds 2, so 4 over 0.3 : 0.2 -> 2.4 : 1.6 -> 2 : 2 (rounding first gives 3 : 1)
    assert allocate(6, (0.5, 0.3, 0.2), (2, 4, 4)).tolist() == [2, 2, 2]


def test_strata_of_weight_zero_serve_only_when_the_others_are_exhausted() -> None:
    assert allocate(4, (1, 0, 0), (4, 9, 9)).tolist() == [4, 0, 0]
    # 6 more over what the others hold, 9 : 3 -> 4.5 : 1.5, equal remainders go to the first
    assert allocate(10, (1, 0, 0), (4, 9, 3)).tolist() == [4, 5, 1]


def test_equal_remainders_go_to_the_first_stratum() -> None:
    assert allocate(1, (1, 1, 1), (5, 5, 5)).tolist() == [1, 0, 0]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_allocation_is_exact_and_within_bounds(strata: list[tuple[int, float]], share: float) -> None:
    available, weights = np.array([n for n, _ in strata]), np.array([w for _, w in strata]) + 1e-3
    total = int(share * available.sum())
    counts = allocate(total, weights, available)
    assert counts.sum() == total
    assert ((counts >= 0) & (counts <= available)).all()
    if (total * weights / weights.sum() <= available).all():
        assert (np.abs(counts - total * weights / weights.sum()) < 1 + 1e-6).all()  # the quota rule


@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=4).filter(any), st.floats(0, 1))
def test_allocation_proportional_to_size_never_exceeds_a_stratum(sizes: list[int], share: float) -> None:
    total = int(share * sum(sizes))
    counts = allocate(total, sizes, sizes)
    assert counts.sum() == total
    assert (counts <= np.array(sizes)).all()


def test_invalid_input_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"sum to 0\.9, expected 1\.0; check schedule\.start"):
        stratum_weights((0.3, 0.3, 0.3), (1, 0, 0), 0.0)
    with pytest.raises(ValueError, match=r"schedule\.end.*non-negative"):
        stratum_weights((1, 0, 0), (1.5, -0.5, 0), 0.0)
    with pytest.raises(ValueError, match=r"3 weights and schedule.end 2"):
        stratum_weights((1, 0, 0), (0.5, 0.5), 0.0)
    with pytest.raises(ValueError, match=r"position is 1\.5"):
        stratum_weights((1, 0, 0), (1, 0, 0), 1.5)
    with pytest.raises(ValueError, match="competence is 2"):
        competence_position(2.0)
    with pytest.raises(ValueError, match="start < target"):
        competence_position(0.5, start=0.8, target=0.8)
    with pytest.raises(ValueError, match="5 items wanted"):
        allocate(5, (1, 1), (2, 2))
    with pytest.raises(ValueError, match="at least one positive"):
        allocate(1, (0, 0), (2, 2))
    with pytest.raises(ValueError, match="the same"):
        allocate(1, (1, 1, 1), (2, 2))
