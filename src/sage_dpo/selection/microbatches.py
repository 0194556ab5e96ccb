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
            all microbatches are equally large. 0.0 where there are no rows: nothing is run; and where the rows are a
            copy of another process's.
        token_weight: the same for a loss that is a mean over the chosen completions' tokens.
        is_uneven: whether another process has more or fewer rows in it.
    """

    rows: NDArray[np.int64]
    weight: float
    token_weight: float
    is_uneven: bool = False


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

    Microbatches differ by one pair at most, and so do the processes' shares of one. Each is weighted by its share of
    the pairs, because the loop averages the microbatches' mean losses. Where there are fewer pairs than microbatches,
    the first ones are empty: the last must not be, as gradients are exchanged between processes in it. All processes
    run a microbatch or none does; one that has no pair of its own gets a copy of another's, of weight 0.

    Args:
        keys: `[k]` of each kept pair, such as its length in tokens; k may be 0.
        count: microbatches of the step.
        processes: processes that train.
        asked: pairs the step's loss is the mean over, those not kept counting 0; `None` is those dealt out.
        tokens: `[k]` of each pair's chosen completion; without them, token weights are those of pairs.

    Returns:
        For each process its `count` microbatches.
    """
    parts, total = count * processes, max(1, len(keys)) if asked is None else asked
    per_token = 0.0 if tokens is None else parts * len(keys) / total / max(1, int(tokens.sum()))
    order = np.argsort(keys, kind="stable")
    share, extra = divmod(len(keys), processes)
    sizes = [[(share + (p < extra) + place) // count for p in range(processes)] for place in range(count)]
    blocks = np.split(order, np.cumsum(np.ravel(sizes))[:-1])  # by microbatch, then process

    def microbatch(place: int, process: int) -> Microbatch:
        rows, size, largest = blocks[place * processes + process], sizes[place][process], max(sizes[place])
        weight = size * parts / total
        token_weight = weight if tokens is None else int(tokens[rows].sum()) * per_token
        copied = blocks[place * processes][:1]  # the first process has a pair wherever one has
        return Microbatch(rows if size else copied, weight, token_weight, largest != min(sizes[place]))

    return [[microbatch(place, process) for place in range(count)] for process in range(processes)]
