"""How many candidates each stratum contributes: weights over training, and their rounding to counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = Sequence[float] | NDArray[Any]


def check_weights(weights: Weights, name: str) -> NDArray[np.float64]:
    """Return `weights` as float64 of sum 1; `ValueError` unless non-negative, finite and summing to 1 +- 1e-6."""
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{name} is {list(array.flat)}, expected a list of non-negative numbers")
    if abs(array.sum() - 1.0) > 1e-6:
        raise ValueError(f"stratum weights sum to {array.sum():g}, expected 1.0; check {name}")
    normalized: NDArray[np.float64] = array / array.sum()
    return normalized


def stratum_weights(start: Weights, end: Weights, position: float) -> NDArray[np.float64]:
    """Return the stratum weights at `position` of the schedule.

    weights = (1 - position) * start + position * end

    Args:
        start, end: `[S]` weights at position 0 and 1; non-negative, each summing to 1.
        position: in [0, 1]: training progress, or `competence_position`.

    Returns:
        `[S]`, summing to 1.

    Raises:
        ValueError: weights are not a distribution, sizes differ, or the position is outside [0, 1].

    Source: a schedule over strata is the paper's. Interpretation: its form is open; we interpolate linearly.
    """
    first, last = check_weights(start, "schedule.start"), check_weights(end, "schedule.end")
    if first.shape != last.shape:
        raise ValueError(f"schedule.start has {first.size} weights and schedule.end {last.size}, expected as many")
    if not 0.0 <= position <= 1.0:
        raise ValueError(f"schedule position is {position}, expected a number in [0, 1]")
    return (1.0 - position) * first + position * last


def competence_position(competence: float, *, start: float = 0.0, target: float = 1.0) -> float:
    """Return the schedule position that a measured competence stands for.

    position = clip((competence - start) / (target - start), 0, 1)

    Args:
        competence: mean success rate of the policy on the pool's problems, in [0, 1].
        start: competence at which the schedule begins.
        target: competence at which it ends; > start.

    Raises:
        ValueError: competence is outside [0, 1], or not 0 <= start < target <= 1.

    Interpretation: the paper refreshes pools "by competence" and leaves the map open; with the defaults the position
    is the competence itself.
    """
    if not 0.0 <= competence <= 1.0:
        raise ValueError(f"competence is {competence}, expected a mean success rate in [0, 1]")
    if not 0.0 <= start < target <= 1.0:
        raise ValueError(f"competence bounds are start={start}, target={target}, expected 0 <= start < target <= 1")
    return min(1.0, max(0.0, (competence - start) / (target - start)))


def allocate(total: int, weights: Weights, available: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """Return how many of `total` items each stratum contributes.

    Largest-remainder rounding of total * weights. A stratum that holds fewer items than its share gives all it has,
    and the others share the rest in proportion to their weights; strata of weight 0 are used only when the weighted
    ones are exhausted, in proportion to what they hold. Equal remainders go to the first stratum.

    Args:
        total: items wanted, 0 <= total <= sum(available).
        weights: `[S]` non-negative, at least one positive; need not sum to 1.
        available: `[S]` items each stratum holds.

    Returns:
        `[S]` int64, summing to exactly `total`, nowhere above `available`.

    Raises:
        ValueError: more wanted than available, or weights or sizes are invalid.
    """
    shares, left = np.asarray(weights, dtype=np.float64), np.asarray(available, dtype=np.int64)
    if shares.shape != left.shape or shares.ndim != 1:
        raise ValueError(f"weights have shape {shares.shape} and available {left.shape}, expected the same [S]")
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise ValueError(f"weights are {shares.tolist()}, expected non-negative numbers, at least one positive")
    if (left < 0).any() or not 0 <= total <= left.sum():
        raise ValueError(f"{total} items wanted of {left.tolist()} available; ask for fewer or enlarge the pool")
    counts = np.zeros_like(left)
    while (rest := total - int(counts.sum())) > 0:
        room = left - counts
        active = np.where(room > 0, shares, 0.0)
        if active.sum() <= 0:
            active = room.astype(np.float64)
        quota = rest * (active / active.sum())
        full = (active > 0) & (quota >= room)
        if full.any() and not full[active > 0].all():
            counts[full] = left[full]  # their share exceeds what they hold: the others absorb the difference
        else:
            counts += np.minimum(_largest_remainder(quota, rest), room)
    return counts


def _largest_remainder(quota: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Round `quota` (summing to `total`) down, then give the missing items to the largest remainders."""
    floors = np.floor(quota + 1e-9).astype(np.int64)
    order = np.argsort(-(quota - floors), kind="stable")
    floors[order[: total - int(floors.sum())]] += 1
    return floors
