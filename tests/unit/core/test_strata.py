from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dpo.core.strata import STRATA, assign_strata, relative_success_rate
from sage_dpo.records import Stratum

EASY, MEDIUM, HARD = (STRATA.index(s) for s in (Stratum.EASY, Stratum.MEDIUM, Stratum.HARD))


def test_codes_cover_every_stratum() -> None:
    assert set(STRATA) == set(Stratum)
    assert [STRATA[code] for code in (EASY, MEDIUM, HARD)] == [Stratum.EASY, Stratum.MEDIUM, Stratum.HARD]


def test_bounds_belong_to_the_easier_stratum() -> None:
    codes = assign_strata(np.array([0.0, 0.29, 0.3, 0.69, 0.7, 1.0]))
    assert codes.tolist() == [HARD, HARD, MEDIUM, MEDIUM, EASY, EASY]
    assert codes.dtype == np.int8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_seven_of_ten_is_easy_and_three_of_ten_medium_in_any_precision(dtype: type) -> None:
    rates = np.array([7 / 10, 3 / 10], dtype=dtype)
    assert assign_strata(rates).tolist() == [EASY, MEDIUM]
    # a float32 column read back as float64: 0.699999988 < 0.7
    assert assign_strata(rates.astype(np.float64)).tolist() == [EASY, MEDIUM]
    assert assign_strata(rates.astype(np.float64), easy_min=0.8, hard_max=0.7).tolist() == [MEDIUM, HARD]


def test_bounds_are_configurable() -> None:
    assert assign_strata(np.array([0.4, 0.6]), easy_min=0.5, hard_max=0.5).tolist() == [HARD, EASY]


def test_relative_rate_by_hand() -> None:
    # sorted -3, 1, 1, 9: ranks (0 + 1/2)/4, (1 + 2/2)/4 twice, (3 + 1/2)/4
    assert relative_success_rate(np.array([1.0, 9.0, -3.0, 1.0])).tolist() == [0.5, 0.875, 0.125, 0.5]


def test_relative_rates_give_strata_of_thirty_forty_thirty_percent() -> None:
    rates = relative_success_rate(np.random.default_rng(0).normal(size=1000))
    codes = assign_strata(rates)
    assert [int((codes == c).sum()) for c in (EASY, MEDIUM, HARD)] == [300, 400, 300]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_relative_rate_ignores_scale_and_order(margins: list[float]) -> None:
    values = np.round(np.array(margins), 3)
    rates = relative_success_rate(values)
    assert ((rates > 0) & (rates < 1)).all()
    assert rates.mean() == pytest.approx(0.5)
    order = np.random.default_rng(0).permutation(values.size)
    assert relative_success_rate(values[order]).tolist() == rates[order].tolist()
    assert relative_success_rate(values * 2.0**5).tolist() == rates.tolist()


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_invalid_rates_are_counted_and_named(bad: float) -> None:
    with pytest.raises(ValueError, match=r"1 of 3 success rates.*row 2"):
        assign_strata(np.array([0.1, 0.2, bad]))


def test_invalid_bounds_and_margins_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"hard_max=0\.8, easy_min=0\.2"):
        assign_strata(np.array([0.5]), easy_min=0.2, hard_max=0.8)
    with pytest.raises(ValueError, match="N >= 1"):
        relative_success_rate(np.array([]))
    with pytest.raises(ValueError, match="1 of 2 margins are NaN"):
        relative_success_rate(np.array([0.0, np.nan]))
