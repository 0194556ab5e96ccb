"""A whole data set as one candidate batch: counts in closed form, and agreement with one step of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dpo.config import PoolSettings, SelectorSettings
from sage_dpo.selection.whole import cut_whole
from sage_dpo.selectors import CandidateScores


def of_margins(margins: list[float]) -> CandidateScores:
    """Pairs of one token a side: at temperature 1 the margin is the difference of log-probabilities."""
    values = np.array(margins)
    ones = np.ones(len(values))
    return CandidateScores(values, np.zeros(len(values)), ones, ones, ones, ones)


PLAIN: dict[str, Any] = {"margin_temperature": 1.0, "use_informativeness": False, "damping": 0.0}
LOW = [-3.0, -1.0, 0.0, 2.0, 4.0]  # at damping 0 the utility falls with the margin


@pytest.mark.parametrize(
    ("settings", "pool", "rates", "kept", "ranks", "gate"),
    [
        ({"gate_quantile": 1.0}, {"stratified": False}, None, [0, 1, 2], [1, 2, 3, 4, 5], None),
        ({"gate": -0.5}, {"stratified": False}, None, [0, 1], [1, 2, 0, 0, 0], -0.5),
        ({"gate_quantile": 0.5}, {"stratified": False}, None, [0, 1, 2], [1, 2, 3, 4, 0], 2.0),  # median of |m|
        ({"gate_quantile": 0.5, "keep_ratio": 1.0}, {"stratified": False}, None, [0, 1, 2, 3], [1, 2, 3, 4, 0], 2.0),
        # strata by rank of the margin: 0.1, 0.3 | 0.5 | 0.7, 0.9 with 0.3 medium and 0.7 easy
        ({"gate_quantile": 1.0, "keep_ratio": 0.6}, {}, None, [0, 1, 3], [1, 1, 2, 1, 2], None),
        ({"gate_quantile": 1.0, "cut": "global"}, {}, None, [0, 1, 2], [1, 2, 3, 4, 5], None),
        ({"gate_quantile": 1.0, "keep_ratio": 0.4}, {}, [0.1, 0.1, 0.1, 0.9, 0.9], [0, 3], [1, 2, 3, 1, 2], None),
    ],
)
def test_what_is_kept(settings: Any, pool: Any, rates: Any, kept: Any, ranks: Any, gate: Any) -> None:
    chosen = SelectorSettings(**{**PLAIN, **settings})
    success_rates = None if rates is None else np.array(rates)
    cut = cut_whole(5, of_margins(LOW), success_rates, chosen, PoolSettings(**pool), seed=0)
    assert cut.selection.kept.tolist() == kept
    assert cut.ranks.tolist() == ranks
    assert cut.gate == gate


@given(
    margins=st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=40),
    ratio=st.floats(0.05, 1.0),
    quantile=st.floats(0.05, 1.0),
    cut=st.sampled_from(["stratum", "global"]),
)
def test_the_kept_are_the_first_ranks_of_their_group(margins: Any, ratio: float, quantile: float, cut: str) -> None:
    settings = SelectorSettings(**PLAIN, keep_ratio=ratio, gate_quantile=quantile, cut=cut)
    found = cut_whole(len(margins), of_margins(margins), None, settings, PoolSettings(), seed=0)
    groups = np.zeros(len(margins)) if cut == "global" else found.strata
    for code in np.unique(groups):
        rows = groups == code
        ranks, mask = found.ranks[rows], found.selection.mask[rows]
        ranked = np.sort(ranks[ranks > 0])
        assert ranked.tolist() == list(range(1, len(ranked) + 1))
        assert sorted(ranks[mask]) == list(range(1, mask.sum() + 1))
    is_open = np.ones(len(margins), dtype=bool) if found.gate is None else np.array(margins) <= found.gate
    assert ((found.ranks > 0) == is_open).all()
    asked = max(1, int(np.floor(ratio * len(margins) + 0.5 + 1e-9)))
    assert len(found.selection.kept) == min(asked, is_open.sum())
    assert sum(all_ for _, all_ in found.by_stratum().values()) == len(margins)
