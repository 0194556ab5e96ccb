"""Success rate -> difficulty stratum, as columns: codes in one int8 array, fit for pools of 10^7 pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.records import Stratum

STRATA: tuple[Stratum, ...] = (Stratum.EASY, Stratum.MEDIUM, Stratum.HARD)
"""Code -> stratum; a stratum's code is its place here, and schedule weights are written in this order."""

_TOLERANCE = 1e-6  # a float32 column stores 7/10 as 0.69999999, also when read as float64; it still means 0.7


def check_bounds(easy_min: float, hard_max: float) -> None:
    """Raise `ValueError` unless 0 <= hard_max <= easy_min <= 1."""
    if not 0.0 <= hard_max <= easy_min <= 1.0:
        raise ValueError(
            f"stratum bounds are hard_max={hard_max}, easy_min={easy_min}, expected 0 <= hard_max <= easy_min <= 1"
        )


def assign_strata(success_rates: NDArray[Any], *, easy_min: float = 0.7, hard_max: float = 0.3) -> NDArray[np.int8]:
    """Return the stratum code of each success rate.

    easy: s >= easy_min; medium: hard_max <= s < easy_min; hard: s < hard_max. Bounds are compared with a tolerance
    of 1e-6, so that 7 correct of 10 is easy in a float32 column too.

    Args:
        success_rates: `[N]` in [0, 1].
        easy_min, hard_max: bounds, 0 <= hard_max <= easy_min <= 1.

    Returns:
        `[N]` int8 codes; `STRATA[code]` is the stratum.

    Raises:
        ValueError: a rate is NaN or outside [0, 1], or the bounds are out of order.

    Source: strata are the paper's (arXiv:2602.01207). Interpretation: the paper leaves the bounds open; we use 0.7
    and 0.3.
    """
    check_bounds(easy_min, hard_max)
    rates = np.asarray(success_rates)
    if rates.ndim != 1:
        raise ValueError(f"success_rates have shape {rates.shape}, expected [N]")
    bad = np.flatnonzero(~((rates >= 0) & (rates <= 1)))  # also true for NaN
    if bad.size:
        raise ValueError(
            f"{bad.size} of {rates.size} success rates are NaN or outside [0, 1], first at row {bad[0]}: "
            f"{rates[bad[0]]}; drop these pairs or switch stratification off"
        )
    # Codes count upwards from easy, so that adding two comparisons gives them, 15 times as fast as masked assignment.
    is_not_easy, is_hard = rates < easy_min - _TOLERANCE, rates < hard_max - _TOLERANCE
    codes: NDArray[np.int8] = is_not_easy.view(np.int8) + is_hard.view(np.int8)
    return codes


def relative_success_rate(margins: NDArray[Any]) -> NDArray[np.float64]:
    """Return each margin's fractional rank, a stand-in for the success rate of pairs that come without one.

    rate_i = (number below i + half the number equal to i, itself included) / N, in (0, 1)

    The pair the policy gets right most clearly comes near 1, the one it gets wrong most confidently near 0; equal
    margins get equal rates, and the mean is always 1/2. So bounds of 0.3 and 0.7 put 30 / 40 / 30 % of the pool in
    hard / medium / easy, and the rates say nothing about competence.

    Args:
        margins: `[N]` policy margins, N >= 1.

    Raises:
        ValueError: margins are empty, not one-dimensional or NaN.

    Interpretation: the method says "estimated from the policy's margins" and leaves the estimate open. A margin has
    no calibrated absolute scale (it moves with temperature, beta and lengths); its rank is free of scale.
    """
    values = np.asarray(margins, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"margins have shape {values.shape}, expected [N] with N >= 1")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} margins are NaN; drop these pairs first")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    rates: NDArray[np.float64] = ((below + 0.5 * counts) / values.size)[inverse]
    return rates
