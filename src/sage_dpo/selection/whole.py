"""A whole data set as one candidate batch: which of its pairs a selector keeps, once, under the policy as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sage_dpo.config import PoolSettings, SelectorSettings
from sage_dpo.core.selection import gate_threshold, kept_count
from sage_dpo.core.strata import STRATA, assign_strata
from sage_dpo.selection.scoring import estimate_success_rates
from sage_dpo.selectors import Candidates, CandidateScores, Selection, make_selector
from sage_dpo.selectors.scores import Ranking


@dataclass(frozen=True, eq=False)
class WholeCut:
    """What became of N pairs.

    Attributes:
        selection: kept pairs, and the numbers behind it.
        strata: `[N]` codes of `core.strata.STRATA`; `None` where there are none.
        gate: margin above which a pair is shut; `None` without a gate.
        ranks: `[N]` place by priority among the open pairs that the cut compares, from 1; 0 for shut ones.
    """

    selection: Selection
    strata: NDArray[np.int8] | None
    gate: float | None
    ranks: NDArray[np.int64]

    def by_stratum(self) -> dict[str, list[int]]:
        """Return kept pairs and all pairs of each stratum that has any."""
        if self.strata is None:
            return {}
        counts = [(str(name), self.strata == code) for code, name in enumerate(STRATA)]
        return {name: [int(self.selection.mask[rows].sum()), int(rows.sum())] for name, rows in counts if rows.any()}


def cut_whole(
    count: int,
    scores: CandidateScores | None,
    success_rates: NDArray[np.float64] | None,
    settings: SelectorSettings,
    pool: PoolSettings,
    *,
    seed: int,
) -> WholeCut:
    """Return which of N pairs are kept: `keep_ratio` of them, fewer where the gate leaves fewer open.

    The rules are those of one step of training, with the whole data set as its candidates. Strata come from success
    rates, or from the margins' ranks where a rate is missing. The gate's quantile is taken over all N margins.

    Args:
        count: N, >= 1.
        scores: of the pairs; `None` where the selector needs none.
        success_rates: `[N]`; `None` where not every pair has one.
        settings, pool: how to rank, shut and cut.
        seed: of a random selector.

    Raises:
        NumericalError: a margin is NaN.

    Source: ours; the method chooses while it trains.
    """
    selector = make_selector(settings)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    strata = _strata(scores, success_rates, settings, pool)
    gate = settings.gate
    quantile = settings.quantile()  # nothing renews a data set
    if quantile is not None:
        margins = selector.margin(Candidates(count, rng, scores)).numpy()
        gate = gate_threshold(margins, quantile)
    selection = selector.select(Candidates(count, rng, scores, strata, gate), kept_count(count, settings.keep_ratio))
    groups = strata if settings.cut == "stratum" else None
    return WholeCut(selection, strata, gate, _ranks(selection.ranking, groups, selection.is_open))


def _strata(
    scores: CandidateScores | None,
    success_rates: NDArray[np.float64] | None,
    settings: SelectorSettings,
    pool: PoolSettings,
) -> NDArray[np.int8] | None:
    if not pool.stratified:
        return None
    if success_rates is None and scores is not None:
        success_rates = estimate_success_rates(scores, temperature=settings.margin_temperature)
    if success_rates is None:
        return None
    return assign_strata(success_rates, easy_min=pool.easy_min, hard_max=pool.hard_max)


def _ranks(ranking: Ranking, groups: NDArray[np.int8] | None, is_open: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Return places within each group in the order of `core.selection.select_top`."""
    count = len(ranking.priority)
    groups = np.zeros(count, dtype=np.int8) if groups is None else groups
    tie_break = np.zeros(count) if ranking.margin is None else ranking.margin
    rows = np.arange(count) if is_open is None else np.flatnonzero(is_open)
    order = rows[np.lexsort((rows, tie_break[rows], -ranking.priority[rows], groups[rows]))]
    starts = np.searchsorted(groups[order], groups[order], side="left")
    ranks = np.zeros(count, dtype=np.int64)
    ranks[order] = np.arange(1, len(order) + 1) - starts
    return ranks
