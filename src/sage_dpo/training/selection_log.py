"""What is told of a selection: numbers for the tracker, records for the report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.core.strata import STRATA
from sage_dpo.pool.pool import Draw
from sage_dpo.records import PairScore
from sage_dpo.selectors.base import Selection
from sage_dpo.training.state import TokenCounts

_NUMBERS = ("margin", "gradient_signal", "curvature", "informativeness", "utility")


def selection_metrics(draw: Draw, selection: Selection, counts: TokenCounts) -> dict[str, float]:
    """Return what one step logs: kept fraction, strata, costs so far, each number's mean over kept and over dropped."""
    is_kept = _mask(draw, selection)
    metrics: dict[str, float] = {
        "sage/kept_fraction": float(is_kept.mean()),
        "sage/filtered": selection.filtered,
        "sage/refilled": selection.refilled,
        "sage/tokens_scored": counts.scored,
        "sage/tokens_trained": counts.trained,
    }
    if draw.strata is not None:
        for code, stratum in enumerate(STRATA):
            metrics[f"sage/strata/{stratum}"] = float((draw.strata == code).mean())
    if selection.ranking is not None:
        for name in _NUMBERS:
            column = getattr(selection.ranking, name)
            metrics[f"sage/{name}_kept"] = float(column[is_kept].mean())
            if not is_kept.all():
                metrics[f"sage/{name}_dropped"] = float(column[~is_kept].mean())
    return metrics


def candidate_records(
    columns: dict[str, list[Any]], draw: Draw, selection: Selection, *, step: int, pool_version: int
) -> list[PairScore]:
    """Return one record per candidate; its numbers are NaN if the selector computed no scores."""
    ranking = selection.ranking
    is_kept = _mask(draw, selection)
    return [
        PairScore(
            step=step,
            pair_id=pair_id(columns, row, int(index)),
            problem_id=str(columns["problem_id"][row]) if "problem_id" in columns else "",
            stratum="" if draw.strata is None else str(STRATA[draw.strata[row]]),
            is_kept=bool(is_kept[row]),
            pool_version=pool_version,
            **{name: math.nan if ranking is None else float(getattr(ranking, name)[row]) for name in _NUMBERS},
        )
        for row, index in enumerate(draw.indices)
    ]


def pair_id(columns: dict[str, list[Any]], row: int, index: int) -> str:
    """Return the pair's own id, or its row number in the data set."""
    return str(columns["id"][row]) if "id" in columns else str(index)


def _mask(draw: Draw, selection: Selection) -> NDArray[np.bool_]:
    mask = np.zeros(len(draw.indices), dtype=bool)
    mask[selection.kept] = True
    return mask
