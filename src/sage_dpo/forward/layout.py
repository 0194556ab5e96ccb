"""Which sequences run in which forward pass, and how: the one decision that scoring and training share.

    kind            a forward pass runs                                    where
    prefix_sharing  one row, every prompt once for all that go on from it  that saves enough (`prefix_sharing.py`)
    packed          one row, sequences end to end                          the attention kernel can (`packing.py`)
    grouped         a row for each of some sequences of similar length     elsewhere (`batching.py`)
    padded          a row for each sequence                                several passes are not allowed

What this file does not know: what is computed from the model's outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sage_dpo.forward.batching import packed_batches, prompt_batches, token_budget_batches
from sage_dpo.forward.packing import supports_packing
from sage_dpo.forward.prefix_sharing import Segment, is_worth_sharing, segments_of, supports_prefix_sharing


class ForwardPass(NamedTuple):
    """What one call of the model runs.

    Attributes:
        members: `[B]` indices of sequences.
        segments: of the one row that holds them, one for each member (`prefix_sharing.segment_arguments` tells them to
            the model); `None` runs each in a row of its own, padded on the right, without an attention mask.
    """

    members: NDArray[np.int64]
    segments: list[Segment] | None = None


@dataclass(frozen=True, eq=False)
class Layout:
    """How N sequences are run: the passes together hold each of them once."""

    kind: Literal["prefix_sharing", "packed", "grouped", "padded"]
    passes: list[ForwardPass]


def choose_layout(
    model: nn.Module,
    prompts: Sequence[tuple[int, ...]],
    lengths: NDArray[np.int64],
    *,
    device: torch.device | str,
    token_budget: int | None = None,
    padding_limit: int | None = None,
    allows_groups: bool = True,
) -> Layout:
    """Return the layout that computes the fewest tokens that need not be computed.

    Args:
        model: what will run them, possibly wrapped; its attention decides what can be done.
        prompts: `[N]` token ids, at least one each.
        lengths: `[N]` tokens of the sequences, prompts included.
        device: of the model's input.
        token_budget: tokens of a forward pass, padding included. Without one, sequences that need no padding run in one
            pass in their order.
        padding_limit: tokens of padding that a group may hold, see `token_budget_batches`.
        allows_groups: whether several passes may serve where padding cannot be avoided otherwise. If not, prefixes are
            shared even if that saves little: it leaves no padding.
    """
    everything: list[NDArray[np.int64]] = [np.arange(len(lengths))]
    can_pack = supports_packing(model)
    if supports_prefix_sharing(model):
        is_last_resort = not (can_pack or allows_groups)
        if is_last_resort or is_worth_sharing(model, segments_of(prompts, lengths), device):
            batches = everything
            if token_budget is not None:
                batches = prompt_batches(prompts, lengths, token_budget=token_budget)
            rows = [segments_of([prompts[i] for i in batch.tolist()], lengths[batch]) for batch in batches]
            return Layout("prefix_sharing", list(map(ForwardPass, batches, rows)))
    if can_pack:
        batches = everything if token_budget is None else packed_batches(lengths, token_budget=token_budget)
        rows = [[Segment(length, 0, row) for row, length in enumerate(lengths[batch].tolist())] for batch in batches]
        return Layout("packed", list(map(ForwardPass, batches, rows)))
    if not allows_groups:
        return Layout("padded", [ForwardPass(everything[0])])
    budget = len(lengths) * int(lengths.max(initial=1)) if token_budget is None else token_budget
    batches = token_budget_batches(lengths, token_budget=budget, padding_limit=padding_limit)
    return Layout("grouped", list(map(ForwardPass, batches)))
