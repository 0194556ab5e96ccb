"""`sage`: the pairs of highest SAGE utility S = g^2 J / (h J + lambda). Every component is a switch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sage_dpo.core.utility import curvature, gradient_signal, log_sage_utility, pair_informativeness, sage_utility
from sage_dpo.selectors.base import Selector
from sage_dpo.selectors.scores import Candidates, Ranking

_INFORMATIVENESS = ("chosen_informativeness", "rejected_informativeness", "chosen_lengths", "rejected_lengths")


class Sage(Selector):
    """Highest utility first, by its logarithm (`core.utility.log_sage_utility`)."""

    @property
    def needs_informativeness(self) -> bool:  # type: ignore[override]
        return self.settings.use_informativeness

    def rank(self, candidates: Candidates) -> Ranking:
        margin, informativeness = self.margin(candidates), self.informativeness(candidates)
        noise = {"label_noise": self.settings.label_noise, "label_confidence": self.settings.label_confidence}
        switches: dict[str, Any] = {
            "damping": self.settings.damping,
            "use_gradient_signal": self.settings.use_gradient_signal,
            "use_curvature": self.settings.use_curvature,
            **noise,
        }
        return Ranking(
            priority=log_sage_utility(margin, informativeness, **switches).numpy(),
            margin=margin.numpy(),
            gradient_signal=gradient_signal(margin, **noise).numpy(),
            curvature=curvature(margin).numpy(),
            informativeness=(torch.ones_like(margin) if informativeness is None else informativeness).numpy(),
            utility=sage_utility(margin, informativeness, **switches).numpy(),
        )

    def informativeness(self, candidates: Candidates) -> Tensor | None:
        """Return the `[N]` float64 informativeness J, or `None` where it is switched off (J = 1)."""
        if not self.needs_informativeness:
            return None
        scores = self.scores(candidates)
        columns = [torch.from_numpy(scores.column(name, needed_for="informativeness")) for name in _INFORMATIVENESS]
        return pair_informativeness(*columns, length_normalized=self.settings.length_normalized)
