"""Rows of a tokenized data set: which can be trained on, and whether their success rates are known."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from sage_dpo.selection.dataset import success_rate_column, usable_rows

EOS = 4


def rows(*sequences: tuple[list[int], list[int], list[int]]) -> Dataset:
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return Dataset.from_list([{"id": "x", **dict(zip(names, ids, strict=True))} for ids in sequences])


def test_rows_that_cannot_be_trained_on_whole_are_counted_by_reason() -> None:
    data = rows(
        ([1], [2, EOS], [3, EOS]),
        ([], [2, EOS], [3, EOS]),
        ([1], [EOS], [3, EOS]),
        ([1], [2, EOS], [2, EOS]),
        ([1], [2, 2, 2, EOS], [3, EOS]),
        ([1], [2, EOS], [3, 3, 3, EOS]),
        ([1, 1], [2, EOS], [3, EOS]),
    )
    kept, counts = usable_rows(data, 4, EOS)
    assert kept == [0, 6]
    assert counts == {
        "empty prompt": 1,
        "empty completion": 1,
        "chosen equals rejected": 1,
        "longer than max_length": 2,
    }


def test_without_a_bound_or_an_end_token_only_structure_counts() -> None:
    kept, counts = usable_rows(rows(([1] * 900, [EOS], [3]), ([1], [2], [2])), None, None)
    assert (kept, counts) == ([0], {"chosen equals rejected": 1})


def test_success_rates_are_all_known_or_none() -> None:
    data = rows(([1], [2], [3]), ([1], [2], [4]))
    assert success_rate_column(data) is None
    assert success_rate_column(data.add_column("success_rate", [0.5, None])) is None
    known = success_rate_column(data.add_column("success_rate", [0.5, 1.0]))
    assert known is not None
    np.testing.assert_array_equal(known, [0.5, 1.0])
