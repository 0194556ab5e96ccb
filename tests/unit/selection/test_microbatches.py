"""Kept pairs are dealt out so that the step's loss is the mean over its pairs."""

from __future__ import annotations

import numpy as np
import pytest

from sage_dpo.selection.microbatches import deal_microbatches


def rows_of(dealt) -> list[list[list[int]]]:
    return [[microbatch.rows.tolist() for microbatch in process] for process in dealt]


def test_neighbours_in_length_share_a_microbatch() -> None:
    dealt = deal_microbatches(np.array([40, 10, 30, 20]), count=2)
    assert rows_of(dealt) == [[[1, 3], [2, 0]]]
    assert [m.weight for m in dealt[0]] == [1.0, 1.0]


def test_processes_get_equally_many_pairs_of_each_microbatch() -> None:
    dealt = deal_microbatches(np.arange(8), count=2, processes=2)
    assert rows_of(dealt) == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_fewer_pairs_make_microbatches_that_differ_by_one_and_are_weighted_by_their_share() -> None:
    # 5 pairs on 2 microbatches: 2 and 3; the loop averages the two means, so 2/5 * 2 and 3/5 * 2
    (process,) = deal_microbatches(np.arange(5), count=2)
    assert rows_of([process]) == [[[0, 1], [2, 3, 4]]]
    assert [m.weight for m in process] == pytest.approx([0.8, 1.2])


@pytest.mark.parametrize(("kept", "count", "processes"), [(5, 2, 1), (7, 3, 2), (8, 4, 2), (9, 2, 4), (64, 4, 3)])
def test_the_weighted_mean_of_microbatch_means_is_the_mean_over_pairs(kept, count, processes) -> None:
    losses = np.random.default_rng(0).random(kept)
    dealt = deal_microbatches(np.arange(kept), count=count, processes=processes)
    step = np.mean([[m.weight * losses[m.rows].mean() for m in process] for process in dealt])
    trained = np.sort(np.concatenate([m.rows for process in dealt for m in process if m.weight]))
    assert step == pytest.approx(losses.mean())
    assert trained.tolist() == list(range(kept))
    sizes = np.array([[len(m.rows) for m in process] for process in dealt])
    assert (np.ptp(sizes, axis=0) <= 1).all()
    uneven = np.array([[m.is_uneven for m in process] for process in dealt])
    assert (uneven >= (sizes != sizes[0])).all()
    assert (uneven == uneven[0]).all()


def test_a_process_without_a_pair_of_its_own_runs_a_copy_that_counts_nothing() -> None:
    dealt = deal_microbatches(
        np.array([3, 9, 5]), count=2, processes=2
    )  # 2 pairs for the first process, 1 for the other
    assert rows_of(dealt) == [[[0], [2]], [[0], [1]]]
    assert [[m.weight for m in process] for process in dealt] == [
        [pytest.approx(4 / 3)] * 2,
        [0.0, pytest.approx(4 / 3)],
    ]
    assert [[m.is_uneven for m in process] for process in dealt] == [[True, False]] * 2


@pytest.mark.parametrize(("kept", "rows"), [(0, [[], [], []]), (1, [[], [], [0]]), (2, [[], [0], [1]])])
def test_where_pairs_are_few_the_first_microbatches_are_empty(kept, rows) -> None:
    (process,) = deal_microbatches(np.arange(kept), count=3)
    assert rows_of([process]) == [rows]
    assert [m.weight for m in process] == pytest.approx([3 / kept if row else 0.0 for row in rows])


def test_pairs_that_were_asked_for_and_not_kept_count_zero() -> None:
    losses = np.array([4.0, 2.0, 6.0])
    dealt = deal_microbatches(np.arange(3), count=2, asked=8)
    assert np.mean([m.weight * losses[m.rows].mean() for m in dealt[0]]) == pytest.approx((4 + 2 + 6) / 8)


@pytest.mark.parametrize(("count", "processes", "asked"), [(2, 1, None), (3, 2, None), (2, 1, 16)])
def test_the_step_of_a_loss_over_tokens_is_the_mean_over_all_tokens(count, processes, asked) -> None:
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 30, 12)
    sums = rng.random(12) * tokens  # of the losses of each pair's tokens
    dealt = deal_microbatches(tokens, count=count, processes=processes, asked=asked, tokens=tokens)
    parts = [m.token_weight * sums[m.rows].sum() / tokens[m.rows].sum() for process in dealt for m in process]
    share = 1 if asked is None else 12 / asked
    assert np.mean(parts) == pytest.approx(sums.sum() / tokens.sum() * share)
