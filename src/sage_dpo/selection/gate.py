"""The gate: above which margin a pair is shut, and whether the pool has anything left below it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.config import SelectorSettings
from sage_dpo.core.selection import gate_threshold

CALIBRATION_PAIRS = 512
"""Pairs of the first pool whose margins under the untuned policy give the quantile; its standard error is then 2 %."""


class Gate:
    """Margin threshold and a running count of what it leaves open.

    Args:
        settings: `gate` or `gate_quantile`; with neither, every pair is open and no pool is ever spent.
        spent_share: a pool is spent when over one pass through it at most this share of the candidates was open.
        renewed: refreshes bring new pairs.

    Attributes:
        threshold: pairs with a margin above it are shut; `None` before `calibrate`, or without a gate.
        is_spent: whether the last pass through the pool found too few open pairs.
        is_renewed: whether the pool was made because the one before was spent.
    """

    def __init__(self, settings: SelectorSettings, *, spent_share: float, renewed: bool = False) -> None:
        self.threshold = settings.gate
        self.is_spent = self.is_renewed = False
        self._quantile, self._spent_share = settings.quantile(renewed=renewed), spent_share
        self._seen = self._open = 0

    @property
    def needs_calibration(self) -> bool:
        return self._quantile is not None and self.threshold is None

    def calibrate(self, margins: NDArray[np.float64]) -> None:
        """Set the threshold from `[N]` margins of the untuned policy."""
        assert self._quantile is not None
        self.threshold = gate_threshold(margins, self._quantile)

    def observe(self, is_open: NDArray[np.bool_] | None, *, pool_size: int) -> None:
        """Count one step's candidates; at the end of a pass through the pool, tell whether it is spent."""
        if is_open is None:
            return
        self._seen, self._open = self._seen + len(is_open), self._open + int(is_open.sum())
        if self._seen >= pool_size:
            self.is_spent = self._open <= self._spent_share * self._seen
            self._seen = self._open = 0

    def reset(self) -> None:
        """Begin a new pool."""
        self._seen = self._open = 0
        self.is_spent = False

    def state_dict(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "is_spent": self.is_spent,
            "is_renewed": self.is_renewed,
            "seen": self._seen,
            "open": self._open,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.threshold, self.is_spent, self.is_renewed = state["threshold"], state["is_spent"], state["is_renewed"]
        self._seen, self._open = state["seen"], state["open"]
