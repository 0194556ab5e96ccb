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
        token_weight: the same for a loss that is a mean over the chosen completions' tokens.
    """

    rows: NDArray[np.int64]
    weight: float
    token_weight: float


@dataclass(frozen=True, eq=False)
class StepBatch:
    """What one optimizer step trains on.

    Attributes:
        microbatches: this process's, in order.
        pairs: the kept pairs by column: what the data set has, and reference log-probabilities.
        metrics: numbers to log.
    """

    microbatches: list[Microbatch]
    pairs: Columns
    metrics: dict[str, float]

    def examples(self, microbatch: Microbatch) -> list[dict[str, Any]]:
        """Return the rows of a microbatch, as TRL's collator takes them."""
        return [{name: column[row] for name, column in self.pairs.items()} for row in microbatch.rows]


def deal_microbatches(
    keys: NDArray[np.int64],
    *,
    count: int,
    processes: int = 1,
    asked: int | None = None,
    tokens: NDArray[np.int64] | None = None,
) -> list[list[Microbatch]]:
    """Deal the kept pairs out to `count` microbatches of `processes` processes, neighbours in `keys` together.

    Of a microbatch every process gets equally many pairs: TRL gathers one number a pair from all of them, and a gather
    needs equal shapes. So up to `processes - 1` pairs, the last, are left out where the selection is no multiple of
    `processes`. Microbatches differ by one pair at most; each is weighted by its share of the pairs, because the loop
    averages the microbatches' mean losses. Where there are fewer pairs than microbatches, the first ones are empty:
    the last must not be, as gradients are exchanged between processes in it.

    Args:
        keys: `[k]` of each kept pair, such as its length in tokens; k may be 0.
        count: microbatches of the step.
        processes: processes that train.
        asked: pairs the step's loss is the mean over, those not kept counting 0; `None` is those dealt out.
        tokens: `[k]` of each pair's chosen completion; without them, token weights are those of pairs.

    Returns:
        For each process its `count` microbatches.
    """
    share = len(keys) // processes
    over = share if asked is None else asked / processes
    order = np.argsort(keys, kind="stable")[: share * processes]
    sizes = [(share + place) // count for place in range(count)]  # ascending, and summing to share
    blocks = [block.reshape(processes, -1) for block in np.split(order, np.cumsum(sizes)[:-1] * processes)]
    weights = [size * count / over if size else 0.0 for size in sizes]
    per_token = 0.0 if tokens is None else count * processes * share / over / max(1, int(tokens[order].sum()))

    def microbatch(rows: NDArray[np.int64], weight: float) -> Microbatch:
        return Microbatch(rows, weight, weight if tokens is None else int(tokens[rows].sum()) * per_token)

    return [
        [microbatch(block[process], weight) for block, weight in zip(blocks, weights, strict=True)]
        for process in range(processes)
    ]
