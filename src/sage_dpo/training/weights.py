"""How much a microbatch counts in its step, and how large it is, where TRL takes all of them to be alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from sage_dpo.selection.microbatches import Microbatch

KEY = "microbatch_weights"
"""Name, in a batch, of its weights: (of a mean over pairs, of a mean over the chosen completions' tokens)."""

UNEVEN = "microbatch_is_uneven"
"""Name, in a batch, of the mark that other processes have more or fewer pairs in theirs."""


class _Losses(Protocol):
    loss_types: list[str]
    loss_weights: list[float]


def weights_of(microbatch: Microbatch, loss_types: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return what a batch must hold beside its tensors; nothing where the microbatch counts as any other."""
    by_token = microbatch.token_weight if "sft" in loss_types else microbatch.weight
    is_plain = microbatch.weight == 1.0 and by_token == 1.0
    return {} if is_plain else {KEY: (microbatch.weight, by_token)}


@contextlib.contextmanager
def weighted(trainer: _Losses, inputs: dict[str, Any]) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield a batch as TRL takes it, and the factor of its loss; `sft`, a mean over tokens, is weighted by tokens."""
    by_pair, by_token = inputs.get(KEY, (1.0, 1.0))
    before = trainer.loss_weights
    ratio = {"sft": by_token / by_pair if by_pair else 1.0}
    trainer.loss_weights = [w * ratio.get(kind, 1.0) for kind, w in zip(trainer.loss_types, before, strict=True)]
    try:
        yield {name: value for name, value in inputs.items() if name not in (KEY, UNEVEN)}, by_pair
    finally:
        trainer.loss_weights = before


@contextlib.contextmanager
def uneven_gathers(accelerator: Accelerator) -> Iterator[None]:
    """Let TRL, which gathers one number a pair for its metrics, gather from processes with unequal numbers of pairs."""
    gather = accelerator.gather

    def gather_any(tensor: Tensor) -> Tensor:
        if tensor.ndim != 1:
            return gather(tensor)
        padded = gather(accelerator.pad_across_processes(tensor, pad_index=torch.nan))
        return padded[~padded.isnan()]

    accelerator.gather = gather_any
    try:
        yield
    finally:
        del accelerator.gather
