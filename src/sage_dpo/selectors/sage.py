"""`sage`: the pairs of highest SAGE utility S = g^2 J / (h J + lambda). Every component is a switch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sage_dpo.core.utility import curvature, gradient_signal, log_sage_utility, sage_utility
from sage_dpo.selectors.base import CandidateScores, Ranking, Selection, SelectorSettings, check_request
from sage_dpo.selectors.ranking import compute_informativeness, compute_margin, cut


@dataclass(frozen=True)
class SageSelector:
    """Keeps the candidates of highest utility, sorted by its logarithm (`core.utility.log_sage_utility`)."""

    settings: SelectorSettings
    name: str = field(default="sage", init=False)
    needs_scores: bool = field(default=True, init=False)

    @property
    def needs_reference(self) -> bool:
        return self.settings.margin != "confidence"

    @property
    def needs_informativeness(self) -> bool:
        return self.settings.use_informativeness

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
            raise ValueError("selector 'sage' got no scores; score the candidates first (needs_scores)")
        return cut(self.rank(scores), keep, strata=strata, settings=self.settings, rng=rng)

    def rank(self, scores: CandidateScores) -> Ranking:
        """Return margin, signal, curvature, informativeness (1 when switched off) and utility of each candidate."""
        margin = compute_margin(scores, self.settings)
        informativeness = compute_informativeness(scores, self.settings) if self.needs_informativeness else None
        noise = {"label_noise": self.settings.label_noise, "label_confidence": self.settings.label_confidence}
        switches: dict[str, Any] = {
            "damping": self.settings.damping,
            "use_gradient_signal": self.settings.use_gradient_signal,
            "use_curvature": self.settings.use_curvature,
            **noise,
        }
        return Ranking(
            margin=margin.numpy(),
            gradient_signal=gradient_signal(margin, **noise).numpy(),
            curvature=curvature(margin).numpy(),
            informativeness=(torch.ones_like(margin) if informativeness is None else informativeness).numpy(),
            utility=sage_utility(margin, informativeness, **switches).numpy(),
            priority=log_sage_utility(margin, informativeness, **switches).numpy(),
        )
