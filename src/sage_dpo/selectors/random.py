"""`random`: a uniform random subset of the candidates. The control for every claim about selection."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sage_dpo.core.selection import select_top
from sage_dpo.selectors.base import CandidateScores, Selection, SelectorSettings, check_request


@dataclass(frozen=True)
class RandomSelector:
    """Keeps a uniform random subset; within strata under `cut: stratum`, so only the rank differs from `sage`."""

    settings: SelectorSettings
    name: str = field(default="random", init=False)
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
        """See `Selector.select`."""
        check_request(scores, count=count, keep=keep, strata=strata)
        cut = strata if self.settings.cut == "stratum" else None
        return Selection(kept=select_top(rng.random(count), keep, strata=cut))
