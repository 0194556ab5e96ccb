"""Tokenized preference data: which rows can be trained on, and how difficult they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

TOKEN_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


def usable_rows(dataset: Dataset, max_length: int | None, eos_token_id: int | None) -> tuple[list[int], dict[str, int]]:
    """Return the numbers of the rows that can be trained on whole, and how many were excluded for which reason.

    Args:
        dataset: with the columns `prompt_ids`, `chosen_ids`, `rejected_ids`.
        max_length: longest prompt + completion, in tokens; `None` sets no bound.
        eos_token_id: a completion of this token alone counts as empty.
    """
    counts: dict[str, int] = {}

    def reason(row: dict[str, Any]) -> str | None:
        prompt, chosen, rejected = (row[name] for name in TOKEN_COLUMNS)
        if not prompt:
            return "empty prompt"
        if any(not ids or list(ids) == [eos_token_id] for ids in (chosen, rejected)):
            return "empty completion"
        if list(chosen) == list(rejected):
            return "chosen equals rejected"
        if max_length is not None and len(prompt) + max(len(chosen), len(rejected)) > max_length:
            return "longer than max_length"
        return None

    kept = []
    for index, row in enumerate(dataset.select_columns(list(TOKEN_COLUMNS))):
        why = reason(row)
        if why is None:
            kept.append(index)
        else:
            counts[why] = counts.get(why, 0) + 1
    return kept, counts


def success_rate_column(dataset: Dataset) -> NDArray[np.float64] | None:
    """Return the `success_rate` column, or `None` if it is absent or has gaps."""
    if "success_rate" not in dataset.column_names:
        return None
    values = dataset["success_rate"][:]
    rates = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return None if np.isnan(rates).any() else rates
