"""What a selector is: one method that ranks a step's candidates. The base class checks and cuts.

selector = make_selector(SelectorSettings(selector="sage"))
selection = selector.select(Candidates(64, generator, scores, strata), keep=32)
selection.kept   # 32 sorted indices into the 64 candidates
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sage_dpo.config import SelectorSettings
from sage_dpo.core.margins import confidence_margin, implicit_margin, normalized_implicit_margin
from sage_dpo.core.selection import open_pairs, select_top
from sage_dpo.core.utility import curvature, gradient_signal
from sage_dpo.selectors.scores import Candidates, CandidateScores, Ranking, Selection

DEFAULT_BETA = 0.1  # TRL's; the trainer passes the loss's own


class Selector:
    """Ranks candidates; the `keep` of highest priority are trained on.

    Subclasses write `rank`. The other attributes have defaults that suit a selector of margins.

    Args:
        settings: which selector, and how it cuts.

    Attributes:
        needs_scores: whether `rank` reads scores; off, the scoring pass is not run.
        needs_reference: whether the scores must hold reference log-probabilities.
        needs_informativeness: whether the scores must hold informativeness; off, the scorer skips that work.
    """

    needs_scores = True
    needs_informativeness = False

    def __init__(self, settings: SelectorSettings) -> None:
        self.settings = settings
        if settings.is_gated:
            self.needs_scores = True  # the gate reads margins, whatever the ranking reads

    @property
    def needs_reference(self) -> bool:
        return self.needs_scores and self.settings.margin != "confidence"

    def rank(self, candidates: Candidates) -> Ranking:
        """Return the priority of each candidate, and the numbers behind it.

        Raises:
            ValueError: a column this selector needs is absent.
            NumericalError: a score is NaN or infinite.
        """
        raise NotImplementedError

    def select(self, candidates: Candidates, keep: int) -> Selection:
        """Return which `keep` of the candidates to train on: the gate, then the cut by priority.

        Of a gated step only the open candidates are cut, so that fewer than `keep` may be kept, or none. The cut is
        within strata or over the batch (`settings.cut`). Equal priorities go to the lower margin, then to the lower
        index; a ranking without margins is cut by priority and index.

        Raises:
            ValueError: not 1 <= keep <= N; errors of `rank`.
        """
        if not 1 <= keep <= candidates.count:
            raise ValueError(
                f"keep is {keep} of {candidates.count} candidates, expected 1 <= keep <= count; check the keep fraction"
            )
        ranking = self.rank(candidates)
        if ranking.priority.shape != (candidates.count,):
            raise ValueError(
                f"selector {self.settings.selector!r} gave priorities shaped {ranking.priority.shape} to "
                f"{candidates.count} candidates; return one for each"
            )
        codes = candidates.strata if self.settings.cut == "stratum" else None
        if candidates.gate is not None and ranking.margin is None:
            ranking = replace(margin_ranking(self.margin(candidates)), priority=ranking.priority)
        margin = ranking.margin
        if candidates.gate is None or margin is None:
            return Selection(select_top(ranking.priority, keep, strata=codes, tie_break=margin), ranking)
        is_open = open_pairs(margin, candidates.gate)
        rows = np.flatnonzero(is_open)
        codes = None if codes is None else codes[rows]
        best = select_top(ranking.priority[rows], min(keep, rows.size), strata=codes, tie_break=margin[rows])
        return Selection(rows[best], ranking, is_open=is_open)

    def scores(self, candidates: Candidates) -> CandidateScores:
        """Return the candidates' scores; `ValueError` if there are none."""
        if candidates.scores is None:
            raise ValueError(
                f"selector {self.settings.selector!r} got no scores; score the candidates first (needs_scores)"
            )
        return candidates.scores

    def margin(self, candidates: Candidates) -> Tensor:
        """Return the `[N]` float64 margin that `settings.margin` names. Errors as for `rank`."""
        scores, purpose = self.scores(candidates), f"the {self.settings.margin} margin"

        def columns(*names: str) -> list[Tensor]:
            return [torch.from_numpy(scores.column(name, needed_for=purpose)) for name in names]

        logps, lengths = columns("chosen_logps", "rejected_logps"), columns("chosen_lengths", "rejected_lengths")
        tau = self.settings.margin_temperature
        if self.settings.margin == "confidence":
            normalized = self.settings.length_normalized
            return confidence_margin(*logps, *lengths, temperature=tau, length_normalized=normalized)
        reference = columns("ref_chosen_logps", "ref_rejected_logps")
        if self.settings.margin == "implicit":
            return implicit_margin(*logps, *reference, beta=self.settings.implicit_beta or DEFAULT_BETA)
        return normalized_implicit_margin(*logps, *reference, *lengths, temperature=tau)


def margin_ranking(margin: Tensor, priority: Tensor | None = None) -> Ranking:
    """Return a ranking by margin alone: by `priority`, or lowest margin first; utility = priority, and J is 1."""
    priority = -margin if priority is None else priority
    return Ranking(
        priority=priority.numpy(),
        margin=margin.numpy(),
        gradient_signal=gradient_signal(margin).numpy(),
        curvature=curvature(margin).numpy(),
        informativeness=np.ones(len(margin)),
        utility=priority.numpy(),
    )
