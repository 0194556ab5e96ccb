"""The controls of every claim about selection, which score nothing: `random`, and `all`, which is plain DPO."""

from __future__ import annotations

import numpy as np

from sage_dpo.selectors.base import Selector
from sage_dpo.selectors.scores import Candidates, Ranking, Selection


class Random(Selector):
    """A uniform random subset; within strata under `cut: stratum`, so that only the rank differs from `sage`."""

    needs_scores = False

    def rank(self, candidates: Candidates) -> Ranking:
        return Ranking(priority=candidates.rng.random(candidates.count))


class All(Selector):
    """Every candidate."""

    needs_scores = False

    def rank(self, candidates: Candidates) -> Ranking:
        return Ranking(priority=np.zeros(candidates.count))

    def select(self, candidates: Candidates, keep: int) -> Selection:
        """Keep all. Raises `ValueError` when keep < N."""
        if 1 <= keep < candidates.count:
            raise ValueError(
                f"selector 'all' keeps every pair but was asked for {keep} of {candidates.count}; "
                "set the keep fraction to 1, or choose another selector"
            )
        return super().select(candidates, keep)
