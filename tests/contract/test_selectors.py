"""The contract every registered selector keeps. A new selector is one row in `VARIANTS` (or none: defaults suffice)."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from sage_dpo.config import validate
from sage_dpo.errors import ConfigError, NumericalError
from sage_dpo.selectors import (
    SELECTORS,
    Candidates,
    CandidateScores,
    Ranking,
    Selection,
    Selector,
    SelectorSettings,
    make_selector,
    register_selector,
    registry,
)

BASE = SelectorSettings(damping=0.05, margin_temperature=2.0)


def variant(**changes: Any) -> SelectorSettings:
    return SelectorSettings(**{**BASE.model_dump(), **changes})


VARIANTS = {
    **{name: variant(selector=name, keep_ratio=1.0 if name == "all" else 0.5) for name in SELECTORS},
    "lowest_margin, implicit": variant(selector="lowest_margin", margin="implicit"),
    "sage, implicit_normalized": variant(margin="implicit_normalized"),
    "sage, undamped": variant(damping=0.0),
    "sage, no signal": variant(use_gradient_signal=False),
    "sage, no curvature": variant(use_curvature=False),
    "sage, no informativeness": variant(use_informativeness=False),
    "sage, no normalisation": variant(length_normalized=False),
    "sage, global": variant(cut="global"),
}
every_selector = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
scored = pytest.mark.parametrize("settings", [s for s in VARIANTS.values() if make_selector(s).needs_scores], ids=str)
N = 24


def make_scores(count: int = N, seed: int = 0) -> CandidateScores:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, size=(2, count))
    logps = -rng.random((4, count)) * np.concatenate([lengths, lengths]) * 2
    sums = rng.random((2, count)) * lengths
    return CandidateScores(*logps[:2], *lengths, *sums, *logps[2:])


def subset(scores: CandidateScores, rows: np.ndarray) -> CandidateScores:
    return CandidateScores(**{f.name: getattr(scores, f.name)[rows] for f in fields(scores)})


def make_strata(count: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, count).astype(np.int8)


def keep_of(settings: SelectorSettings, count: int) -> int:
    return count if settings.selector == "all" else (count + 1) // 2


def choose(
    selector: Selector, scores: CandidateScores, keep: int, strata: np.ndarray | None, seed: int = 7
) -> Selection:
    shown = scores if selector.needs_scores else None
    return selector.select(Candidates(len(scores), np.random.default_rng(seed), shown, strata), keep)


@every_selector
@pytest.mark.parametrize("strata", [None, make_strata(), np.zeros(N, dtype=np.int8), np.repeat([0, 2], N // 2)])
def test_exact_count_sorted_without_duplicates(settings: SelectorSettings, strata: np.ndarray | None) -> None:
    keep = keep_of(settings, N)
    kept = choose(make_selector(settings), make_scores(), keep, strata).kept
    assert kept.dtype == np.int64
    assert kept.size == keep
    assert (np.diff(kept) > 0).all()
    assert kept.min() >= 0
    assert kept.max() < N


@every_selector
def test_deterministic_under_seed(settings: SelectorSettings) -> None:
    runs = [
        choose(make_selector(settings), make_scores(), keep_of(settings, N), make_strata()).kept.tolist()
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


@every_selector
def test_keeping_everything_keeps_everything(settings: SelectorSettings) -> None:
    assert choose(make_selector(settings), make_scores(), N, make_strata()).kept.tolist() == list(range(N))


@every_selector
def test_one_candidate(settings: SelectorSettings) -> None:
    assert choose(make_selector(settings), make_scores(1), 1, make_strata(1)).kept.tolist() == [0]


@every_selector
def test_strata_keep_their_share_under_the_stratum_cut(settings: SelectorSettings) -> None:
    strata = np.repeat([0, 1, 2], [12, 8, 4]).astype(np.int8)
    kept = choose(make_selector(settings), make_scores(), keep_of(settings, N), strata).kept
    if settings.cut == "stratum" and settings.selector != "all":
        assert np.bincount(strata[kept]).tolist() == [6, 4, 2]


@every_selector
def test_impossible_requests_are_rejected(settings: SelectorSettings) -> None:
    selector = make_selector(settings)
    for keep in (0, N + 1):
        with pytest.raises(ValueError, match=f"keep is {keep}"):
            choose(selector, make_scores(), keep, None)
    with pytest.raises(ValueError, match="strata have shape"):
        choose(selector, make_scores(), N, make_strata(N - 1))
    with pytest.raises(ValueError, match="rows for 24 candidates"):
        selector.select(Candidates(N, np.random.default_rng(0), make_scores(3)), N)


@every_selector
def test_what_a_selector_needs(settings: SelectorSettings) -> None:
    selector = make_selector(settings)
    assert isinstance(selector, Selector)
    assert selector.settings is settings
    assert selector.needs_scores or not (selector.needs_reference or selector.needs_informativeness)


@scored
@pytest.mark.parametrize("strata", [None, make_strata()])
def test_permuting_the_candidates_permutes_the_choice(settings: SelectorSettings, strata: np.ndarray | None) -> None:
    scores, order = make_scores(), np.random.default_rng(3).permutation(N)
    straight = choose(make_selector(settings), scores, 9, strata).kept
    shuffled = choose(make_selector(settings), subset(scores, order), 9, None if strata is None else strata[order]).kept
    assert sorted(order[shuffled].tolist()) == straight.tolist()


@scored
def test_ranking_explains_the_choice(settings: SelectorSettings) -> None:
    selection = choose(make_selector(settings), make_scores(), 9, None)
    ranking = selection.ranking
    assert all(
        getattr(ranking, f.name).shape == (N,) and getattr(ranking, f.name).dtype == float for f in fields(ranking)
    )
    assert ranking.priority[selection.kept].min() >= ranking.priority[~selection.mask].max()


@scored
def test_extreme_margins_stay_finite(settings: SelectorSettings) -> None:
    extreme = variant(**{**settings.model_dump(), "length_normalized": False})
    logps = np.array([0.0, -1e4, -1e4, 0.0, -5e3, -1e-9])
    scores = CandidateScores(
        logps, logps[::-1].copy(), np.ones(6), np.ones(6), np.ones(6), np.ones(6), logps[::-1].copy(), logps
    )
    selection = choose(make_selector(extreme), scores, 3, None)
    assert selection.kept.size == 3
    assert all(np.isfinite(getattr(selection.ranking, f.name)).all() for f in fields(selection.ranking))


@scored
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_named(settings: SelectorSettings, bad: float) -> None:
    scores = make_scores()
    scores.rejected_logps[5] = bad
    with pytest.raises(NumericalError, match=r"1 of 24 values of rejected_logps.*rows \[5\]"):
        choose(make_selector(settings), scores, 9, None)


@scored
def test_a_missing_column_is_named(settings: SelectorSettings) -> None:
    selector, full = make_selector(settings), make_scores()
    with pytest.raises(ValueError, match="got no scores"):
        selector.select(Candidates(N, np.random.default_rng(0)), 9)
    bare = replace(full, ref_chosen_logps=None, ref_rejected_logps=None)
    if selector.needs_reference:
        with pytest.raises(ValueError, match="no ref_chosen_logps"):
            choose(selector, bare, 9, None)
    else:
        assert choose(selector, bare, 9, None).kept.tolist() == choose(selector, full, 9, None).kept.tolist()
    bare = replace(full, chosen_informativeness=None, rejected_informativeness=None)
    if selector.needs_informativeness:
        with pytest.raises(ValueError, match="no chosen_informativeness"):
            choose(selector, bare, 9, None)
    else:
        assert choose(selector, bare, 9, None).kept.tolist() == choose(selector, full, 9, None).kept.tolist()


# What distinguishes the selectors


def test_all_refuses_to_drop_pairs() -> None:
    with pytest.raises(ValueError, match="'all' keeps every pair but was asked for 3 of 24"):
        choose(make_selector(variant(selector="all", keep_ratio=1.0)), make_scores(), 3, None)


def test_random_is_uniform_and_depends_on_the_generator() -> None:
    selector, scores = make_selector(variant(selector="random")), make_scores()
    counts = np.zeros(N)
    for seed in range(4000):
        counts[choose(selector, scores, 6, None, seed=seed).kept] += 1
    assert np.abs(counts - 1000).max() < 140  # 4000 * 6 / 24 = 1000, standard deviation 27


@pytest.mark.parametrize(("selector", "kept"), [("lowest_margin", [0, 1]), ("highest_margin", [0, 2])])
def test_margin_selectors_keep_the_lowest_or_highest_margins(selector: str, kept: list[int]) -> None:
    # confidence margins -1/1 - -2/2 = 0, -4/2 - -1/1 = -1, -1/2 - -3/1 = 2.5
    scores = CandidateScores(
        np.array([-1.0, -4.0, -1.0]), np.array([-2.0, -1.0, -3.0]), np.array([1, 2, 2]), np.array([2, 1, 1])
    )
    selection = choose(make_selector(variant(selector=selector, margin_temperature=1.0)), scores, 2, None)
    assert selection.ranking.margin.tolist() == [0.0, -1.0, 2.5]
    assert selection.kept.tolist() == kept


def test_undamped_sage_is_lowest_margin() -> None:
    scores, strata = make_scores(200, seed=4), make_strata(200)
    sage = choose(make_selector(variant(damping=0.0)), scores, 70, strata)
    lowest = choose(make_selector(variant(selector="lowest_margin")), scores, 70, strata)
    assert sage.kept.tolist() == lowest.kept.tolist()


def test_sage_without_informativeness_is_lowest_margin_at_any_damping() -> None:
    scores = make_scores(200, seed=5)
    sage = choose(make_selector(variant(use_informativeness=False, damping=3.0)), scores, 70, None)
    lowest = choose(make_selector(variant(selector="lowest_margin")), scores, 70, None)
    assert sage.kept.tolist() == lowest.kept.tolist()


def test_sage_prefers_the_lower_margin_where_utilities_saturate() -> None:
    # S tends to J / lambda for margins far below 0: at -50 and -60 float64 cannot tell the two apart.
    scores = CandidateScores(np.array([-55.0, -65.0]), np.full(2, -5.0), *np.ones((2, 2)), *np.full((2, 2), 0.35))
    selection = choose(make_selector(SelectorSettings(damping=0.1, margin_temperature=1.0)), scores, 1, None)
    assert selection.ranking.priority[0] == selection.ranking.priority[1]
    assert selection.kept.tolist() == [1]


def test_damped_sage_weighs_informativeness() -> None:
    # Equal margins: only J tells the pairs apart.
    ones = np.ones(4)
    scores = CandidateScores(-ones, -ones, ones, ones, np.array([0.1, 0.9, 0.5, 0.7]), 0 * ones)
    selection = choose(make_selector(SelectorSettings(damping=1.0, margin_temperature=1.0)), scores, 2, None)
    assert selection.kept.tolist() == [1, 3]
    # g = 1/2, h = 1/4, J = 0.9, lambda = 1: (0.25 * 0.9) / (0.225 + 1)
    assert selection.ranking.utility[1] == pytest.approx(0.225 / 1.225)


def test_implicit_margin_is_all_ties_while_policy_equals_reference() -> None:
    scores = make_scores()
    same = replace(scores, ref_chosen_logps=scores.chosen_logps, ref_rejected_logps=scores.rejected_logps)
    selection = choose(make_selector(SelectorSettings(selector="lowest_margin", margin="implicit")), same, 5, None)
    assert selection.kept.tolist() == [0, 1, 2, 3, 4]


# Settings and registry


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": "reward"}, r"margin: Input should be 'confidence'.*got 'reward'"),
        ({"cut": "half"}, r"cut: .*got 'half'"),
        ({"implicit_beta": 0.0}, r"implicit_beta: .*greater than 0 \(got 0.0\)"),
        ({"margin_temperature": -1.0}, r"margin_temperature: .*got -1.0"),
        ({"damping": float("nan")}, r"damping: .*got nan"),
        ({"selector": "all"}, "selector is all with keep_ratio 0.5; set keep_ratio to 1.0"),
        ({"damping": 0.0, "use_curvature": False}, "set damping > 0"),
    ],
)
def test_invalid_settings_are_rejected(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(SelectorSettings, changes)


def test_columns_of_different_lengths_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"one shape \[N\]"):
        CandidateScores(np.zeros(3), np.zeros(2), np.ones(3), np.ones(3))


def test_unknown_selectors_are_rejected() -> None:
    with pytest.raises(ConfigError, match="'best', expected one of all, random, lowest_margin, highest_margin, sage"):
        make_selector(SelectorSettings(selector="best"))


def test_a_user_can_register_a_selector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "SELECTORS", dict(SELECTORS))

    @register_selector("first")
    class First(Selector):
        needs_scores = False

        def rank(self, candidates: Candidates) -> Ranking:
            return Ranking(priority=-np.arange(candidates.count, dtype=np.float64))

    selector = make_selector(SelectorSettings(selector="first"))
    assert choose(selector, make_scores(), 3, None).kept.tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match="'sage' is empty or taken"):
        register_selector("sage")


def test_columns_of_pairs_are_the_halves_of_those_of_their_completions() -> None:
    logps, lengths, informativeness = np.array([-1.0, -2.0, -3.0, -4.0]), np.array([5, 6, 7, 8]), np.arange(4) / 2
    scores = CandidateScores.of_completions(logps, lengths, informativeness)
    assert (list(scores.chosen_logps), list(scores.rejected_logps)) == ([-1.0, -2.0], [-3.0, -4.0])
    assert (list(scores.chosen_lengths), list(scores.rejected_lengths)) == ([5, 6], [7, 8])
    assert list(scores.rejected_informativeness) == [1.0, 1.5]
    assert scores.ref_chosen_logps is scores.ref_rejected_logps is None
    referred = CandidateScores.of_completions(logps, lengths, informativeness, ref_logps=logps - 1)
    assert (list(referred.ref_chosen_logps), list(referred.ref_rejected_logps)) == ([-2.0, -3.0], [-4.0, -5.0])


def test_a_ranking_of_another_length_is_refused() -> None:
    class Short(Selector):
        def rank(self, candidates: Candidates) -> Ranking:
            return Ranking(priority=np.zeros(candidates.count - 1))

    with pytest.raises(ValueError, match=r"gave priorities shaped \(23,\) to 24 candidates"):
        choose(Short(variant()), make_scores(), 9, None)
