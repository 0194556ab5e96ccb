"""Batches under a token budget: by length, end to end, and by prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def token_budget_batches(
    lengths: NDArray[np.int64], *, token_budget: int, padding_limit: int | None = None
) -> list[NDArray[np.int64]]:
    """Group sequences into batches of similar length.

    Sequences are sorted by length, longest first, and a batch is closed when adding the next one would exceed
    `token_budget` padded tokens (rows x longest) or `padding_limit` tokens of padding. A sequence longer than the
    budget is a batch of its own. Longest first, so that a run that does not fit in memory fails at its first batch.

    Args:
        lengths: `[N]` tokens of each sequence.
        token_budget: padded tokens a batch may hold, >= 1.
        padding_limit: padding a batch may hold, >= 0: about as many tokens as a forward pass more costs. Default is a
            sixteenth of the budget.

    Returns:
        Index arrays that together hold each of 0..N-1 once.

    Raises:
        ValueError: token_budget < 1 or padding_limit < 0.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget is {token_budget}, expected at least 1")
    limit = token_budget // 16 if padding_limit is None else padding_limit
    if limit < 0:
        raise ValueError(f"padding_limit is {limit}, expected at least 0")
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        rows = order[start : start + max(1, token_budget // max(longest, 1))]
        padding = np.cumsum(longest - lengths[rows])
        batches.append(rows[: max(1, int(np.searchsorted(padding, limit, side="right")))])
        start += len(batches[-1])
    return batches


def packed_batches(lengths: NDArray[np.int64], *, token_budget: int) -> list[NDArray[np.int64]]:
    """Group sequences into batches that run without padding: as many as `token_budget` real tokens allow.

    Longest first, as `token_budget_batches`, so that the sequences of a batch ask the same of attention. A sequence
    longer than the budget is a batch of its own. Arguments, result and errors as there.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget is {token_budget}, expected at least 1")
    order = np.argsort(-np.asarray(lengths), kind="stable")
    ends = np.cumsum(np.asarray(lengths)[order])
    batches = []
    start = 0
    while start < len(order):
        begun = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, begun + token_budget, side="right")))
        batches.append(order[start:stop])
        start = stop
    return batches


def prompt_batches(
    prompts: Sequence[Sequence[int]], lengths: NDArray[np.int64], *, token_budget: int
) -> list[NDArray[np.int64]]:
    """Group sequences into batches that run without padding and hold a prompt once for all that share it.

    Arguments, result and errors as for `packed_batches`, and `prompts` as for `group_by_prompt`.
    """
    groups = group_by_prompt(prompts, lengths, token_budget=token_budget)
    saved = [(len(group) - 1) * (len(prompts[group[0]]) - 1) for group in groups]
    tokens = np.array([lengths[group].sum() for group in groups], dtype=np.int64) - np.array(saved, dtype=np.int64)
    batches = packed_batches(tokens, token_budget=token_budget)
    return [np.concatenate([groups[i] for i in batch]) for batch in batches]


def group_by_prompt(
    prompts: Sequence[Sequence[int]], lengths: NDArray[np.int64], *, token_budget: float
) -> list[NDArray[np.int64]]:
    """Group sequences that share a prompt.

    Args:
        prompts: `[N]` token ids, hashable, at least one each.
        lengths: `[N]` tokens of the sequences, prompts included.
        token_budget: no group takes more tokens in a row (`prefix_sharing.segments_of`), unless it is one sequence.

    Returns:
        Index arrays that together hold each of 0..N-1 once, in order of first appearance.
    """
    groups: list[list[int]] = []
    tokens: list[int] = []
    latest: dict[Sequence[int], int] = {}  # of each prompt, the group that may have room
    for index, (prompt, length) in enumerate(zip(prompts, lengths.tolist(), strict=True)):
        added = length - len(prompt) + 1
        group = latest.get(prompt)
        if group is not None and tokens[group] + added <= token_budget:
            groups[group].append(index)
            tokens[group] += added
        else:
            latest[prompt] = len(groups)
            groups.append([index])
            tokens.append(length)
    return [np.array(group, dtype=np.int64) for group in groups]
