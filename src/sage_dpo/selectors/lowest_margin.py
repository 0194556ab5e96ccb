"""`lowest_margin`: the pairs the policy gets wrong most confidently, by any margin. The utility is -margin."""

from __future__ import annotations

from sage_dpo.selectors.base import Selector, margin_ranking
from sage_dpo.selectors.scores import Candidates, Ranking


class LowestMargin(Selector):
    """Lowest margin first."""

    def rank(self, candidates: Candidates) -> Ranking:
        return margin_ranking(self.margin(candidates))
