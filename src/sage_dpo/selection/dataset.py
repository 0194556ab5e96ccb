"""Tokenized preference data: which rows can be trained on, and how difficult they are."""

from __future__ import annotations

from collections import Counter

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from sage_dpo.rules import pair_exclusion

TOKEN_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


def usable_rows(dataset: Dataset, max_length: int | None, eos_token_id: int | None) -> tuple[list[int], dict[str, int]]:
    """Return the numbers of the rows that can be trained on whole, and how many were excluded for which reason.

    Args:
        dataset: with the columns `prompt_ids`, `chosen_ids`, `rejected_ids`.
        max_length, eos_token_id: as for `rules.pair_exclusion`.
    """
    reasons = [
        pair_exclusion(*(row[name] for name in TOKEN_COLUMNS), max_length=max_length, eos_token_id=eos_token_id)
        for row in dataset.select_columns(list(TOKEN_COLUMNS))
    ]
    kept = [index for index, reason in enumerate(reasons) if reason is None]
    return kept, dict(Counter(reason for reason in reasons if reason is not None))


def success_rate_column(dataset: Dataset) -> NDArray[np.float64] | None:
    """Return the `success_rate` column, or `None` if it is absent or has gaps."""
    if "success_rate" not in dataset.column_names:
        return None
    values = dataset["success_rate"][:]
    rates = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return None if np.isnan(rates).any() else rates
