"""Utilities and strata -> which candidates are kept. Deterministic, and O(N) in the number of candidates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.core.schedule import allocate
from sage_dpo.errors import NumericalError


def kept_count(count: int, fraction: float) -> int:
    """Return how many of `count` candidates a keep fraction gamma keeps: gamma * count rounded half up, at least 1.

    Raises:
        ValueError: count < 1, or fraction outside (0, 1].

    Source: gamma is the paper's; it reports 0.4-0.6 as the good range. Interpretation: rounding is ours.
    """
    if count < 1 or not 0.0 < fraction <= 1.0:
        raise ValueError(f"keep fraction is {fraction} of {count} candidates, expected 0 < fraction <= 1, count >= 1")
    return max(1, math.floor(fraction * count + 0.5 + 1e-9))  # 0.29 * 50 is 14.499999999999998


def candidate_count(kept: int, fraction: float) -> int:
    """Return how many candidates to draw so that a keep fraction gamma leaves `kept`: kept / gamma rounded half up.

    Raises:
        ValueError: kept < 1, or fraction outside (0, 1].
    """
    if kept < 1 or not 0.0 < fraction <= 1.0:
        raise ValueError(f"keep fraction is {fraction} for {kept} kept, expected 0 < fraction <= 1, kept >= 1")
    return max(kept, math.floor(kept / fraction + 0.5 + 1e-9))


def select_top(
    utilities: NDArray[Any],
    keep: int,
    *,
    strata: NDArray[Any] | None = None,
    tie_break: NDArray[Any] | None = None,
) -> NDArray[np.int64]:
    """Return the sorted indices of the `keep` largest utilities.

    With strata, each stratum keeps its own largest; quotas are proportional to the strata's candidates by largest
    remainder, so that exactly `keep` are kept in total.

    Args:
        utilities: `[N]`; infinities are allowed, NaN is not.
        keep: 0 <= keep <= N.
        strata: `[N]` integer codes, any values; `None` cuts over the whole batch.
        tie_break: `[N]` key that decides among equal utilities, smallest first; then the lower index wins.

    Returns:
        `[keep]` int64, ascending.

    Raises:
        ValueError: shapes differ or keep is out of range.
        NumericalError: a utility or tie-break key is NaN.
    """
    values = np.asarray(utilities)
    if values.ndim != 1 or not 0 <= keep <= values.size:
        raise ValueError(f"keep is {keep} of utilities shaped {values.shape}, expected [N] and 0 <= keep <= N")
    for name, column in (("utilities", values), ("strata", strata), ("tie_break", tie_break)):
        if column is not None and column.shape != values.shape:
            raise ValueError(f"{name} have shape {column.shape} for {values.size} utilities, expected one value each")
        if column is not None:
            check_not_nan(name, column)
    is_kept = np.zeros(values.size, dtype=np.bool_)
    members: list[Any] = (
        [slice(None)] if strata is None else [np.flatnonzero(strata == code) for code in _distinct(strata)]
    )
    sizes = np.array([values[rows].size for rows in members], dtype=np.int64)
    quotas = allocate(keep, sizes, sizes) if keep else np.zeros_like(sizes)
    for rows, quota in zip(members, quotas.tolist(), strict=True):
        is_kept[rows] = _largest(values[rows], quota, None if tie_break is None else tie_break[rows])
    return np.flatnonzero(is_kept)


def gate_threshold(margins: NDArray[Any], quantile: float) -> float:
    """Return the margin m* above which a pair is shut: the given quantile of the untuned policy's absolute margins.

    Args:
        margins: `[N]` of the untuned policy, N >= 1.
        quantile: in (0, 1). The pairs it leaves open do not change with the scale of the margins.

    Returns:
        m* >= 0: a pair that the policy ranks wrong is open whatever the margins are.

    Raises:
        NumericalError: a margin is NaN.

    Source: ours; see "The gate" in docs/method.md.
    """
    check_not_nan("margins", margins)
    return float(np.quantile(np.abs(margins), quantile))


def open_pairs(margins: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Return which pairs the gate leaves open, margin <= threshold. Source: ours."""
    check_not_nan("margins", margins)
    is_open: NDArray[np.bool_] = margins <= threshold
    return is_open


def check_not_nan(name: str, values: NDArray[Any]) -> None:
    """Raise `NumericalError` naming how many values are NaN, and which."""
    rows = np.flatnonzero(np.isnan(values))
    if rows.size:
        raise NumericalError(
            f"{rows.size} of {values.size} {name} are NaN, at rows {rows[:8].tolist()}{' ...' * (rows.size > 8)}; "
            "the policy or reference gave NaN log-probabilities: lower the learning rate or check the pairs"
        )


def _distinct(codes: NDArray[Any]) -> list[int]:
    """Return the distinct codes, ascending. Strata are few and small numbers: counting beats sorting."""
    if codes.size and codes.min() >= 0 and codes.max() < 256:
        return [int(code) for code in np.flatnonzero(np.bincount(codes))]
    return [int(code) for code in np.unique(codes)]


def _largest(values: NDArray[Any], keep: int, tie_break: NDArray[Any] | None) -> NDArray[np.bool_]:
    """Mark the `keep` largest: everything above the keep-th value, then as many of its equals as fit. No full sort."""
    if keep == 0:
        return np.zeros(values.size, dtype=np.bool_)
    threshold = np.partition(values, values.size - keep)[values.size - keep]
    is_kept: NDArray[np.bool_] = values > threshold
    equal = np.flatnonzero(values == threshold)
    if tie_break is not None:
        equal = equal[np.argsort(tie_break[equal], kind="stable")]
    is_kept[equal[: keep - np.count_nonzero(is_kept)]] = True
    return is_kept
