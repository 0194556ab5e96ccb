"""A column of success rates, as people write it."""

from __future__ import annotations

import pytest

from sage_dpo.data.rates import plain_rates


@pytest.mark.parametrize(
    ("column", "rates"),
    [
        ([0, 0.25, 1.0], [0, 0.25, 1.0]),
        ([0.5, None, float("nan"), ""], [0.5, None, None, None]),
        (["0.8", " 0.1 "], [0.8, 0.1]),
        (["80 %", "5%"], [0.8, 0.05]),
        ([0, 12.5, 100], [0.0, 0.125, 1.0]),
        (["30", "100"], [0.3, 1.0]),
        ([0, 3, 8], None),  # of 8 samples, or percent
        ([-0.1], None),
        ([101], None),
        (["high"], None),
        ([True, False], None),
        ([[0.5]], None),
        ([], []),
    ],
)
def test_only_what_is_plain_is_read(column, rates):
    assert plain_rates(column) == (None if rates is None else pytest.approx(rates))
