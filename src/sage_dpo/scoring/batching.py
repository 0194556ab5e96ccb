"""Length buckets under a token budget: how sequences are grouped so that little padding is computed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def token_budget_batches(lengths: NDArray[np.int64], *, token_budget: int) -> list[NDArray[np.int64]]:
    """Group sequences into batches of similar length.

    Sequences are sorted by length, longest first, and a batch is closed when adding the next one would exceed
    `token_budget` padded tokens (rows x longest). A sequence longer than the budget is a batch of its own. Longest
    first, so that a run that does not fit in memory fails at its first batch.

    Args:
        lengths: `[N]` tokens of each sequence.
        token_budget: padded tokens a batch may hold, >= 1.

    Returns:
        Index arrays that together hold each of 0..N-1 once.

    Raises:
        ValueError: token_budget < 1.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget is {token_budget}, expected at least 1")
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, token_budget // int(lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def padding_ratio(lengths: NDArray[np.int64], batches: list[NDArray[np.int64]]) -> float:
    """Return padded tokens over real tokens for a batching; 1.0 is no padding."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return padded / max(int(np.sum(lengths)), 1)
