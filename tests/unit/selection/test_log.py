"""One record per candidate, whatever the selector computed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sage_dpo.core.strata import STRATA
from sage_dpo.selection.log import candidate_records
from sage_dpo.selection.pool import Draw
from sage_dpo.selectors import Ranking, Selection

NUMBERS = ("margin", "gradient_signal", "curvature", "informativeness", "utility")
COLUMNS = {"id": ["a", "b", "c"], "problem_id": ["p", "p", "q"]}
DRAW = Draw(np.array([7, 3, 5]), np.array([0, 2, 1], dtype=np.int8))
KEPT = np.array([0, 2])
UNSCORED = Ranking(priority=np.zeros(3))


def ranking() -> Ranking:
    columns = {name: np.arange(3) + 10.0 * index for index, name in enumerate((*NUMBERS, "priority"))}
    return Ranking(**columns)


@pytest.mark.parametrize("scored", [True, False])
def test_every_candidate_is_recorded_with_its_pair_stratum_and_fate(scored: bool) -> None:
    selection = Selection(KEPT, ranking() if scored else UNSCORED)
    rows = candidate_records(COLUMNS, DRAW, selection, step=4, pool_version=2)
    assert [(row.pair_id, row.problem_id, row.is_kept) for row in rows] == [
        ("a", "p", True),
        ("b", "p", False),
        ("c", "q", True),
    ]
    assert [row.stratum for row in rows] == [str(STRATA[code]) for code in (0, 2, 1)]
    assert {(row.step, row.pool_version) for row in rows} == {(4, 2)}


def test_numbers_are_those_of_the_ranking() -> None:
    rows = candidate_records(COLUMNS, DRAW, Selection(KEPT, ranking()), step=0, pool_version=0)
    assert [[getattr(row, name) for name in NUMBERS] for row in rows] == [
        [0.0, 10.0, 20.0, 30.0, 40.0],
        [1.0, 11.0, 21.0, 31.0, 41.0],
        [2.0, 12.0, 22.0, 32.0, 42.0],
    ]


def test_numbers_are_nan_where_the_selector_scored_nothing() -> None:
    rows = candidate_records(COLUMNS, DRAW, Selection(KEPT, UNSCORED), step=0, pool_version=0)
    assert all(math.isnan(getattr(row, name)) for row in rows for name in NUMBERS)


def test_without_ids_and_strata_a_row_is_named_by_its_place_in_the_data() -> None:
    rows = candidate_records({}, Draw(DRAW.indices, None), Selection(KEPT, UNSCORED), step=0, pool_version=0)
    assert [(row.pair_id, row.problem_id, row.stratum) for row in rows] == [("7", "", ""), ("3", "", ""), ("5", "", "")]
