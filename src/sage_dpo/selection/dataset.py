"""Preference data for training: read as meant, which rows can be trained on, and how difficult they are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from sage_dpo.data.preferences import TOKENS, PreferenceReader, exclusion, repeats_prompt, success_rate
from sage_dpo.data.tokens import TemplateCheck, TextBound, check_ids, doubled_marks, end_token
from sage_dpo.errors import EmptyPoolError
from sage_dpo.rules import OVER_LONG, pair_exclusion

TOKEN_COLUMNS = TOKENS
_logger = logging.getLogger(__name__)
_SIDES = ("prompt", "chosen", "rejected")


def read_preferences(
    dataset: Dataset,
    tokenizer: Any,
    fields: Mapping[str, str | None] | None,
    name: str,
    max_length: int | None = None,
    *,
    keeps_others: bool = False,
) -> tuple[Dataset, dict[str, int]]:
    """Return the rows that can be trained on in the form that TRL reads, and how many were excluded for which reason.

    Data that is in that form already comes back as it is.

    Args:
        dataset: text or messages as `sage_dpo.data.preferences` reads them, or token ids.
        tokenizer: of the policy.
        fields: which columns hold what.
        name: what a message calls the data set.
        max_length: longest prompt + completion in tokens; texts that are surely longer are not tokenized at all.
        keeps_others: whether columns that are not read stay.

    Raises:
        EmptyPoolError: no row remains.
        DataError: a row that cannot be read as meant, or token ids that are not the tokenizer's.
        ConfigError: the tokenizer lacks an end token or a chat template, or its template drops what a row holds.
    """
    if set(TOKENS) <= set(dataset.column_names):
        for number, row in enumerate(dataset.select_columns(list(TOKENS))):
            for column in TOKENS:
                check_ids(row[column], column, f"{name}[{number}]", len(tokenizer))
        return dataset, {}
    reader = PreferenceReader(dataset.column_names, fields, name)
    check, bound = TemplateCheck(tokenizer), TextBound(tokenizer, max_length)
    reasons, repeats, is_as_it_was = [], [], True
    for number, row in enumerate(dataset):
        read = reader.read(row, f"{name}[{number}]")
        reasons.append(exclusion(read) or (OVER_LONG if bound.is_exceeded(read) else None))
        repeats.append(repeats_prompt(read))
        is_as_it_was &= all(_without_gaps(row.get(side)) == read.get(side) for side in _SIDES)
        if isinstance(read["chosen"], str):
            end_token(tokenizer)
        elif reasons[-1] is None:
            check(read, f"{name}[{number}]")
    if any(repeats):
        done = "taken off" if all(repeats) else "left, as the others do not"
        _logger.warning(f"{name}: in {sum(repeats)} of {len(dataset)} rows both answers begin with the prompt: {done}")
    if not is_as_it_was or all(repeats) or fields:

        def as_trl_reads(row: dict[str, Any], number: int) -> dict[str, Any]:
            return reader.read(row, f"{name}[{number}]", strips_prompt=all(repeats))

        gone = [name for name in dataset.column_names if not (keeps_others and name in reader.ignored)]
        dataset = dataset.map(as_trl_reads, with_indices=True, remove_columns=gone)
    if any(reasons):
        dataset = dataset.select([number for number, reason in enumerate(reasons) if reason is None])
    counts = dict(Counter(reason for reason in reasons if reason is not None))
    if not len(dataset):
        raise EmptyPoolError(f"no usable pair in {name}, excluded: {counts}; check the data and which columns are read")
    return dataset, counts


def _without_gaps(value: Any) -> Any:
    """Messages without the keys that are empty only because another row has them: Arrow fills them up."""
    if not isinstance(value, list):
        return value
    return [
        {key: item for key, item in message.items() if item is not None} if isinstance(message, Mapping) else message
        for message in value
    ]


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


def trainable_rows(
    dataset: Dataset, max_length: int | None, tokenizer: Any, name: str
) -> tuple[list[int], dict[str, int]]:
    """Return what `usable_rows` does, and say how many rows have a begin or end token twice."""
    marks: Counter[str] = Counter()
    for row in dataset.select_columns(list(TOKEN_COLUMNS)):
        marks.update(doubled_marks(tokenizer, *(row[column] for column in TOKEN_COLUMNS)))
    for mark, count in marks.items():
        _logger.warning(f"{count} of {len(dataset)} pairs of {name} have {mark}; text and tokenizer both write it")
    return usable_rows(dataset, max_length, tokenizer.eos_token_id)


def success_rate_column(dataset: Dataset, fields: Mapping[str, str | None] | None = None) -> NDArray[np.float64] | None:
    """Return the success rates, or `None` if they are absent, left out by `fields`, or have gaps.

    Raises:
        DataError: one that is no number in [0, 1].
    """
    column = (fields or {}).get("success_rate", "success_rate")
    if not column or column not in dataset.column_names:
        return None
    rates = [success_rate(value, f"train_dataset[{number}]") for number, value in enumerate(dataset[column][:])]
    return None if None in rates else np.array(rates, dtype=np.float64)
