"""Length buckets under a token budget: how sequences are grouped so that little padding is computed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def token_budget_batches(
    lengths: NDArray[np.int64], *, token_budget: int, padding_limit: int | None = None
) -> list[NDArray[np.int64]]:
    """Group sequences into batches of similar length.

    Sequences are sorted by length, longest first, and a batch is closed when adding the next one would exceed
    `token_budget` padded tokens (rows x longest) or `padding_limit` tokens of padding. A sequence longer than the
    budget is a batch of its own. Longest first, so that a run that does not fit in memory fails at its first batch.

    Args:
        lengths: `[N]` tokens of each sequence.
        token_budget: padded tokens a batch may hold, >= 1.
        padding_limit: padding a batch may hold, >= 0: about as many tokens as a forward pass more costs. Default is a
            sixteenth of the budget.

    Returns:
        Index arrays that together hold each of 0..N-1 once.

    Raises:
        ValueError: token_budget < 1 or padding_limit < 0.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget is {token_budget}, expected at least 1")
    limit = token_budget // 16 if padding_limit is None else padding_limit
    if limit < 0:
        raise ValueError(f"padding_limit is {limit}, expected at least 0")
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        rows = order[start : start + max(1, token_budget // max(longest, 1))]
        padding = np.cumsum(longest - lengths[rows])
        batches.append(rows[: max(1, int(np.searchsorted(padding, limit, side="right")))])
        start += len(batches[-1])
    return batches


def packed_batches(lengths: NDArray[np.int64], *, token_budget: int) -> list[NDArray[np.int64]]:
    """Group sequences into batches that run without padding: as many as `token_budget` real tokens allow.

    Longest first, as `token_budget_batches`, so that the sequences of a batch ask the same of attention. A sequence
    longer than the budget is a batch of its own. Arguments, result and errors as there.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget is {token_budget}, expected at least 1")
    order = np.argsort(-np.asarray(lengths), kind="stable")
    ends = np.cumsum(np.asarray(lengths)[order])
    batches = []
    start = 0
    while start < len(order):
        begun = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, begun + token_budget, side="right")))
        batches.append(order[start:stop])
        start = stop
    return batches


def padding_ratio(lengths: NDArray[np.int64], batches: list[NDArray[np.int64]]) -> float:
    """Return padded tokens over real tokens for a batching; 1.0 is no padding."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return padded / max(int(np.sum(lengths)), 1)
