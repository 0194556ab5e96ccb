"""Selectors: which candidate pairs of one optimizer step are trained on. A selector is one method, `rank`."""

from sage_dpo.config import SelectorSettings
from sage_dpo.selectors.base import Selector, margin_ranking
from sage_dpo.selectors.registry import SELECTORS, make_selector, register_selector
from sage_dpo.selectors.scores import Candidates, CandidateScores, Ranking, Selection

__all__ = [
    "SELECTORS",
    "CandidateScores",
    "Candidates",
    "Ranking",
    "Selection",
    "Selector",
    "SelectorSettings",
    "make_selector",
    "margin_ranking",
    "register_selector",
]
