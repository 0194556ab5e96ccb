"""The tickets of the training loop, one per microbatch; an epoch draws one candidate per pair of the training data."""

from __future__ import annotations

import math
from typing import Any

from torch.utils.data import DataLoader

from sage_dpo.core.selection import candidate_count


def steps_per_epoch(pairs: int, *, keep: int, keep_ratio: float, drop_last: bool) -> int:
    """Return the optimizer steps of one epoch, at least one.

    Args:
        pairs: of the training data.
        keep: pairs trained on per step, over all processes.
        keep_ratio: share of a step's candidates that are kept.
        drop_last: leave the last step out if it would draw pairs of the next epoch too.
    """
    steps = pairs / min(candidate_count(keep, keep_ratio), pairs)
    return max(1, math.floor(steps) if drop_last else math.ceil(steps))


def ticket_loader(steps: int, microbatches: int) -> DataLoader[Any]:
    """Return a loader of `steps x microbatches` tickets."""
    tickets: Any = range(steps * microbatches)
    return DataLoader(tickets, batch_size=1)
