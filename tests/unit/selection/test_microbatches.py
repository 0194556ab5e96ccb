"""Kept pairs are dealt out so that the step's loss is the mean over its pairs."""

from __future__ import annotations

import numpy as np
import pytest

from sage_dpo.errors import EmptyPoolError
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
    # 5 pairs on 2 microbatches: 3 and 2; the loop averages the two means, so 3/5 * 2 and 2/5 * 2
    (process,) = deal_microbatches(np.arange(5), count=2)
    assert rows_of([process]) == [[[0, 1, 2], [3, 4]]]
    assert [m.weight for m in process] == pytest.approx([1.2, 0.8])


@pytest.mark.parametrize(("kept", "count", "processes"), [(5, 2, 1), (7, 3, 2), (8, 4, 2), (9, 2, 4), (64, 4, 3)])
def test_the_weighted_mean_of_microbatch_means_is_the_mean_over_pairs(kept, count, processes) -> None:
    losses = np.random.default_rng(0).random(kept)
    dealt = deal_microbatches(np.arange(kept), count=count, processes=processes)
    step = np.mean([[m.weight * losses[m.rows].mean() for m in process] for process in dealt])
    trained = np.sort(np.concatenate([m.rows for process in dealt for m in process]))
    assert step == pytest.approx(losses[trained].mean())
    assert trained.tolist() == list(range(kept - kept % processes))  # the longest are left out


def test_too_few_pairs_are_an_error_with_the_remedy() -> None:
    with pytest.raises(EmptyPoolError, match="3 pairs are kept for 2 microbatches on 2 processes, expected at least 4"):
        deal_microbatches(np.arange(3), count=2, processes=2)
