from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_dpo.config import PoolSettings, validate
from sage_dpo.core.strata import assign_strata
from sage_dpo.errors import ConfigError, EmptyPoolError
from sage_dpo.selection import pool as pool_module
from sage_dpo.selection.pool import CandidatePool

SCHEDULED = PoolSettings(schedule_start=(0.5, 0.3, 0.2), schedule_end=(0.1, 0.3, 0.6))
UNSTRATIFIED = PoolSettings(stratified=False)
SHUFFLED_AT_ONCE = pytest.mark.parametrize("at_once", [2**16, 0], ids=["whole strata", "parts"])


def shuffling(at_once: int) -> mock._patch[int]:
    """Shuffle strata of up to `at_once` pairs as a whole, larger ones in parts."""
    return mock.patch.object(pool_module, "_SHUFFLED_AT_ONCE", at_once)


def make_pool(size: int = 100, pool_settings: PoolSettings = SCHEDULED, seed: int = 0) -> CandidatePool:
    rates = np.random.default_rng(1).random(size) if pool_settings.stratified else None
    return CandidatePool(size, rates, settings=pool_settings, seed=seed)


def draw_many(pool: CandidatePool, count: int, steps: range, total: int = 100) -> list[list[int]]:
    return [pool.draw(count, step=s, progress=s / total).indices.tolist() for s in steps]


def test_draw_follows_the_schedule() -> None:
    # 20 candidates: 0.5, 0.3, 0.2 -> 10, 6, 4 at the start; 0.3, 0.3, 0.4 -> 6, 6, 8 half-way; 2, 6, 12 at the end
    pool = make_pool()
    for progress, wanted in ((0.0, [10, 6, 4]), (0.5, [6, 6, 8]), (1.0, [2, 6, 12])):
        strata = pool.draw(20, step=0, progress=progress).strata
        assert strata is not None
        assert np.bincount(strata, minlength=3).tolist() == wanted


def test_draw_reports_the_stratum_of_each_pair() -> None:
    rates = np.random.default_rng(2).random(50)
    draw = CandidatePool(50, rates, settings=SCHEDULED, seed=0).draw(30, step=0, progress=0.3)
    assert draw.strata is not None
    assert draw.strata.tolist() == assign_strata(rates)[draw.indices].tolist()


def test_schedule_by_competence_ignores_progress() -> None:
    # competence 0.6 between 0.4 and 0.8 is half-way: 6, 6, 8
    by_competence = PoolSettings(
        schedule_start=(0.5, 0.3, 0.2),
        schedule_end=(0.1, 0.3, 0.6),
        schedule_by="competence",
        competence_start=0.4,
        competence_target=0.8,
    )
    rates = np.random.default_rng(1).random(100)
    pool = CandidatePool(100, rates, settings=by_competence, seed=0, competence=0.6)
    strata = pool.draw(20, step=0, progress=0.0).strata
    assert strata is not None
    assert np.bincount(strata, minlength=3).tolist() == [6, 6, 8]
    pool.refresh(100, rates, version=1, competence=0.8)
    strata = pool.draw(20, step=1, progress=0.0).strata
    assert strata is not None
    assert np.bincount(strata, minlength=3).tolist() == [2, 6, 12]


def test_without_a_schedule_strata_are_drawn_by_size() -> None:
    rates = np.repeat([0.9, 0.5, 0.1], [50, 30, 20])
    draw = CandidatePool(100, rates, settings=PoolSettings(), seed=0).draw(10, step=0, progress=0.7)
    assert draw.strata is not None
    assert np.bincount(draw.strata, minlength=3).tolist() == [5, 3, 2]


def test_an_empty_stratum_is_replaced_by_the_others() -> None:
    pool = CandidatePool(60, np.repeat([0.9, 0.1], [30, 30]), settings=SCHEDULED, seed=0)
    strata = pool.draw(20, step=0, progress=0.0).strata  # weights 0.5 : 0.2 -> 14.3 : 5.7
    assert strata is not None
    assert np.bincount(strata, minlength=3).tolist() == [14, 0, 6]


@SHUFFLED_AT_ONCE
@given(
    sizes=st.lists(st.integers(0, 12), min_size=3, max_size=3).filter(any),
    fractions=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=200)
def test_each_stratum_is_exhausted_before_any_pair_repeats(
    at_once: int, sizes: list[int], fractions: list[float], seed: int
) -> None:
    with shuffling(at_once):
        check_strata_are_exhausted(sizes, fractions, seed)


def check_strata_are_exhausted(sizes: list[int], fractions: list[float], seed: int) -> None:
    rates, size = np.repeat([0.9, 0.5, 0.1], sizes), sum(sizes)
    pool = CandidatePool(size, rates, settings=SCHEDULED, seed=seed)
    drawn: Counter[int] = Counter()
    for step, fraction in enumerate(fractions):
        count = max(1, round(fraction * size))
        indices = pool.draw(count, step=step, progress=step / 30).indices
        assert indices.size == np.unique(indices).size == count  # no duplicates, across cycle ends too
        drawn.update(indices.tolist())
        for rate in (0.9, 0.5, 0.1):
            times = [drawn[i] for i in np.flatnonzero(rates == rate).tolist()]
            assert not times or max(times) - min(times) <= 1


@SHUFFLED_AT_ONCE
@given(counts=st.lists(st.integers(1, 9), min_size=2, max_size=40), data=st.data())
@settings(max_examples=100)
def test_resume_equals_uninterrupted(at_once: int, counts: list[int], data: st.DataObject) -> None:
    with shuffling(at_once):
        check_resume(counts, data)


def check_resume(counts: list[int], data: st.DataObject) -> None:
    stop = data.draw(st.integers(0, len(counts)))
    rates = np.random.default_rng(3).random(11)

    def run(pool: CandidatePool, steps: range) -> list[list[int]]:
        return [pool.draw(counts[s], step=s, progress=s / len(counts)).indices.tolist() for s in steps]

    whole = run(CandidatePool(11, rates, settings=SCHEDULED, seed=5), range(len(counts)))
    first = CandidatePool(11, rates, settings=SCHEDULED, seed=5)
    head = run(first, range(stop))
    saved = json.loads(json.dumps(first.state_dict()))
    second = CandidatePool(11, rates, settings=SCHEDULED, seed=5)
    second.load_state_dict(saved)
    assert second.state_dict() == saved
    assert second.metrics() == first.metrics()
    assert head + run(second, range(stop, len(counts))) == whole


def test_resume_restores_version_and_competence() -> None:
    rates = np.random.default_rng(4).random(40)
    pool = make_pool(40)
    draw_many(pool, 7, range(3))
    pool.refresh(40, rates, version=3, competence=0.25)
    draw_many(pool, 7, range(3, 9))
    resumed = CandidatePool(40, rates, settings=SCHEDULED, seed=0)
    resumed.load_state_dict(pool.state_dict())
    assert (resumed.version, resumed.competence) == (3, 0.25)
    assert draw_many(resumed, 7, range(9, 20)) == draw_many(pool, 7, range(9, 20))


def test_state_of_another_pool_is_rejected() -> None:
    state = make_pool().state_dict()
    with pytest.raises(ValueError, match="size=100, this pool 99"):
        make_pool(99).load_state_dict(state)
    with pytest.raises(ValueError, match="seed=0, this pool 1"):
        make_pool(seed=1).load_state_dict(state)
    other = CandidatePool(100, np.full(100, 0.5), settings=SCHEDULED, seed=0)
    with pytest.raises(ValueError, match="strata_crc32"):
        other.load_state_dict(state)


def test_state_stays_small() -> None:
    pool = make_pool(100_000)
    draw_many(pool, 64, range(50))
    assert len(json.dumps(pool.state_dict())) < 2000


def test_draws_depend_on_seed_version_and_nothing_else() -> None:
    base = draw_many(make_pool(), 10, range(5))
    np.random.seed(123)  # noqa: NPY002  (the point: the global generator must not matter)
    assert draw_many(make_pool(), 10, range(5)) == base
    assert draw_many(make_pool(seed=1), 10, range(5)) != base
    later = make_pool()
    later.refresh(100, np.random.default_rng(1).random(100), version=1)
    assert draw_many(later, 10, range(5)) != base


def test_strata_are_mixed_within_a_draw() -> None:
    # microbatches are consecutive candidates: they must not be sorted by stratum
    strata = make_pool(1000).draw(200, step=0, progress=0.0).strata
    assert strata is not None
    assert len(set(strata[:50].tolist())) == 3


@SHUFFLED_AT_ONCE
def test_every_order_is_equally_likely(at_once: int) -> None:
    # 12000 cycles of 4 pairs, 24 orders: 500 each, standard deviation 22
    with shuffling(at_once):
        orders = Counter(
            tuple(CandidatePool(4, settings=UNSTRATIFIED, seed=s)._walks[0].take(4).tolist()) for s in range(12000)
        )
    assert set(orders) == set(itertools.permutations(range(4)))
    assert max(abs(count - 500) for count in orders.values()) < 110


def test_a_large_stratum_is_shuffled_only_as_far_as_it_is_drawn() -> None:
    size = 2**16 + 1
    pool = CandidatePool(size, settings=UNSTRATIFIED, seed=0)
    first = pool.draw(1000, step=0, progress=0.0).indices
    order = pool._walks[0]._order
    assert order is not None
    assert 1000 <= order._done < size / 10  # one part of sixteen
    rest = pool.draw(size - 1000, step=1, progress=0.0).indices
    assert np.array_equal(np.sort(np.concatenate([first, rest])), np.arange(size))


def test_an_unstratified_pool_needs_no_success_rates() -> None:
    pool = make_pool(10, UNSTRATIFIED)
    draws = [pool.draw(5, step=s, progress=0.0) for s in range(2)]
    assert all(d.strata is None for d in draws)
    assert sorted(np.concatenate([d.indices for d in draws]).tolist()) == list(range(10))


def test_drawing_the_whole_pool_repeatedly() -> None:
    pool = make_pool(20)
    assert all(sorted(d) == list(range(20)) for d in draw_many(pool, 20, range(4)))


def test_refresh_replaces_membership() -> None:
    pool = make_pool(100)
    draw_many(pool, 10, range(3))
    pool.refresh(5, np.array([0.1, 0.1, 0.5, 0.9, 0.9]), version=1)
    assert pool.occupancy.tolist() == [2, 1, 2]
    assert pool.competence == pytest.approx(0.5)
    assert sorted(pool.draw(5, step=3, progress=0.1).indices.tolist()) == list(range(5))


def test_a_failed_refresh_leaves_the_pool_as_it_was() -> None:
    pool, twin = make_pool(), make_pool()
    with pytest.raises(ValueError, match="1 of 100 success rates"):
        pool.refresh(100, np.r_[np.full(99, 0.5), np.nan], version=1)
    assert draw_many(pool, 10, range(5)) == draw_many(twin, 10, range(5))


def test_metrics_by_hand() -> None:
    rates = np.repeat([0.9, 0.5, 0.1], [5, 3, 2])
    pool = CandidatePool(10, rates, settings=SCHEDULED, seed=0, version=2)
    pool.draw(10, step=0, progress=1.0)
    metrics = pool.metrics()
    assert metrics["pool/version"] == 2
    assert metrics["pool/size"] == 10
    assert metrics["pool/competence"] == pytest.approx(0.62)  # (5 * 0.9 + 3 * 0.5 + 2 * 0.1) / 10
    assert [metrics[f"pool/{s}/pairs"] for s in ("easy", "medium", "hard")] == [5, 3, 2]
    assert [metrics[f"pool/{s}/weight"] for s in ("easy", "medium", "hard")] == pytest.approx([0.1, 0.3, 0.6])
    assert make_pool(10, UNSTRATIFIED).metrics()["pool/all/pairs"] == 10


def test_ten_million_pairs_are_drawn_in_seconds() -> None:
    rates = np.random.default_rng(0).random(10_000_000, dtype=np.float32)
    begun = time.perf_counter()
    pool = CandidatePool(10_000_000, rates, settings=SCHEDULED, seed=0)
    pool.draw(1024, step=0, progress=0.0)
    built = time.perf_counter() - begun
    begun = time.perf_counter()
    draw_many(pool, 1024, range(1, 100))
    assert built < 20
    assert time.perf_counter() - begun < 5


def test_impossible_draws_and_pools_are_rejected() -> None:
    pool = make_pool(10)
    with pytest.raises(EmptyPoolError, match="11 candidates wanted of a pool of 10"):
        pool.draw(11, step=0, progress=0.0)
    with pytest.raises(ValueError, match="count=0"):
        pool.draw(0, step=0, progress=0.0)
    with pytest.raises(ValueError, match=r"progress=1\.5"):
        pool.draw(1, step=0, progress=1.5)
    with pytest.raises(EmptyPoolError, match="holds 0 pairs"):
        CandidatePool(0, np.array([]), settings=SCHEDULED, seed=0)
    with pytest.raises(ValueError, match=r"no success rates.*relative_success_rate"):
        CandidatePool(3, settings=SCHEDULED, seed=0)
    with pytest.raises(ValueError, match=r"shape \(2,\) for 3 pairs"):
        CandidatePool(3, np.array([0.1, 0.2]), settings=SCHEDULED, seed=0)


def test_invalid_settings_are_rejected() -> None:
    rows = [
        ({"schedule_start": (0.3, 0.3, 0.3)}, r"sum 0\.9; expected"),
        ({"schedule_by": "steps"}, r"schedule_by: .*got 'steps'"),
        ({"easy_min": 0.2, "hard_max": 0.5}, "hard_max is 0.5, above easy_min 0.2"),
        ({"schedule_end": (0.5, 0.5)}, r"schedule_end"),
        ({"competence_start": 0.6, "competence_target": 0.5}, "not below competence_target"),
    ]
    for changes, message in rows:
        with pytest.raises(ConfigError, match=message):
            validate(PoolSettings, changes)
