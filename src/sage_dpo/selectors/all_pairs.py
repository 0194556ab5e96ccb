"""`all`: train on every candidate. Plain DPO."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sage_dpo.selectors.base import CandidateScores, Selection, SelectorSettings, check_request


@dataclass(frozen=True)
class AllPairsSelector:
    """Keeps every candidate, in order; the baseline every other selector is compared with."""

    settings: SelectorSettings
    name: str = field(default="all", init=False)
    needs_scores: bool = field(default=False, init=False)
    needs_reference: bool = field(default=False, init=False)
    needs_informativeness: bool = field(default=False, init=False)

    def select(
        self,
        scores: CandidateScores | None,
        *,
        count: int,
        keep: int,
        strata: NDArray[np.int8] | None,
        rng: np.random.Generator,
    ) -> Selection:
        """See `Selector.select`. Raises `ValueError` when keep < count."""
        check_request(scores, count=count, keep=keep, strata=strata)
        if keep < count:
            raise ValueError(
                f"selector 'all' keeps every pair but was asked for {keep} of {count}; "
                "set the keep fraction to 1, or choose another selector"
            )
        return Selection(kept=np.arange(count, dtype=np.int64))
