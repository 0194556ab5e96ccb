"""Where the pool's pairs come from after a refresh."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, eq=False)
class PoolContents:
    """The pairs of one pool version.

    Attributes:
        pairs: data set with columns `prompt_ids`, `chosen_ids`, `rejected_ids`, and optionally `id`, `problem_id`.
        success_rates: `[N]` of each pair's problem under the current policy, or `None` if unknown.
        competence: mean success rate of the current policy over all problems asked, solved and unsolved ones included.
        metrics: numbers to log.
    """

    pairs: Dataset
    success_rates: NDArray[np.float64] | None = None
    competence: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class PairSource(Protocol):
    """Makes new pairs with the current policy (on-policy pools). Fixed pools need no source."""

    def refresh(self, model: Any, *, version: int, step: int) -> PoolContents:
        """Return the pairs of pool `version`, made with `model` after `step` optimizer steps.

        Raises:
            EmptyPoolError: no pair could be made; the trainer then keeps the pool it has.
        """

    def restore(self, *, version: int) -> PoolContents:
        """Return what `refresh` returned for `version`, from storage, when a run is resumed."""
