"""By any margin alone: `lowest_margin`, the pairs the policy gets wrong most confidently, and its opposite."""

from __future__ import annotations

from sage_dpo.selectors.base import Selector, margin_ranking
from sage_dpo.selectors.scores import Candidates, Ranking


class LowestMargin(Selector):
    """Lowest margin first. The utility is -margin."""

    def rank(self, candidates: Candidates) -> Ranking:
        return margin_ranking(self.margin(candidates))


class HighestMargin(Selector):
    """Highest margin first, the utility is the margin: a control that makes the opposite bet (arXiv 2502.14560)."""

    def rank(self, candidates: Candidates) -> Ranking:
        margin = self.margin(candidates)
        return margin_ranking(margin, priority=margin)
