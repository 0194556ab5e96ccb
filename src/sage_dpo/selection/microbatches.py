"""How many of the kept pairs a step trains on, in which microbatch of which process, and with what weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.selection.scoring import Columns


@dataclass(frozen=True, eq=False)
class Microbatch:
    """One process's share of one forward and backward pass.

    Attributes:
        rows: `[b]` indices into the kept pairs.
        weight: factor of the microbatch's mean loss, so that the step's loss is the mean over all its pairs; 1.0 where
            all microbatches are equally large. 0.0 where there are no rows: nothing is run.
    """

    rows: NDArray[np.int64]
    weight: float


@dataclass(frozen=True, eq=False)
class StepBatch:
    """What one optimizer step trains on.

    Attributes:
        microbatches: this process's, in order.
        pairs: the kept pairs by column: token ids and reference log-probabilities.
        metrics: numbers to log.
    """

    microbatches: list[Microbatch]
    pairs: Columns
    metrics: dict[str, float]

    def examples(self, microbatch: Microbatch) -> list[dict[str, Any]]:
        """Return the rows of a microbatch, as TRL's collator takes them."""
        return [{name: column[row] for name, column in self.pairs.items()} for row in microbatch.rows]


def deal_microbatches(
    lengths: NDArray[np.int64], *, count: int, processes: int = 1, asked: int | None = None
) -> list[list[Microbatch]]:
    """Deal the kept pairs out to `count` microbatches of `processes` processes, neighbours in length together.

    Of a microbatch every process gets equally many pairs: TRL gathers one number a pair from all of them, and a gather
    needs equal shapes. So up to `processes - 1` pairs, the longest, are left out where the selection is no multiple of
    `processes`. Microbatches differ by one pair at most; each is weighted by its share of the pairs, because the loop
    averages the microbatches' mean losses. Where there are fewer pairs than microbatches, the first ones are empty:
    the last must not be, as gradients are exchanged between processes in it.

    Args:
        lengths: `[k]` tokens of each kept pair; k may be 0.
        count: microbatches of the step.
        processes: processes that train.
        asked: pairs the step's loss is the mean over, those not kept counting 0; `None` is those dealt out.

    Returns:
        For each process its `count` microbatches.
    """
    share = len(lengths) // processes
    over = share if asked is None else asked / processes
    order = np.argsort(lengths, kind="stable")[: share * processes]
    sizes = [(share + place) // count for place in range(count)]  # ascending, and summing to share
    blocks = np.split(order, np.cumsum(sizes)[:-1] * processes)
    weights = [size * count / over if size else 0.0 for size in sizes]
    return [
        [Microbatch(b.reshape(processes, -1)[process], w) for b, w in zip(blocks, weights, strict=True)]
        for process in range(processes)
    ]
