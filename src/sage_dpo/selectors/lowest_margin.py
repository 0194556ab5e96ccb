"""`lowest_margin`: the pairs the policy gets wrong most confidently, by any margin. The utility is the margin alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sage_dpo.core.utility import curvature, gradient_signal
from sage_dpo.selectors.base import CandidateScores, Ranking, Selection, SelectorSettings, check_request
from sage_dpo.selectors.ranking import compute_margin, cut


@dataclass(frozen=True)
class LowestMarginSelector:
    """Keeps the candidates of lowest margin; utility = -margin, and informativeness is reported as 1."""

    settings: SelectorSettings
    name: str = field(default="lowest_margin", init=False)
    needs_scores: bool = field(default=True, init=False)
    needs_informativeness: bool = field(default=False, init=False)

    @property
    def needs_reference(self) -> bool:
        return self.settings.margin != "confidence"

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
        if scores is None:
            raise ValueError("selector 'lowest_margin' got no scores; score the candidates first (needs_scores)")
        margin = compute_margin(scores, self.settings)
        ranking = Ranking(
            margin=margin.numpy(),
            gradient_signal=gradient_signal(margin).numpy(),
            curvature=curvature(margin).numpy(),
            informativeness=np.ones(count),
            utility=-margin.numpy(),
            priority=-margin.numpy(),
        )
        return cut(ranking, keep, strata=strata, settings=self.settings, rng=rng)
