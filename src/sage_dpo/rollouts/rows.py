"""Completions in the making, and what decides their tokens and their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sage_dpo.errors import NumericalError
from sage_dpo.rollouts.engine import RolloutPrompt
from sage_dpo.rollouts.sampling import TokenSampler


@dataclass(slots=True, eq=False)
class Row:
    """One completion in the making.

    Attributes:
        index: its place in the result.
        sample: which of its prompt's.
        prompt: what it continues.
        tokens: sampled so far.
        is_done: no more tokens come.
        uniforms: `[max_new_tokens]` numbers in [0, 1) that draw its tokens; there only while it is decoded.
    """

    index: int
    sample: int
    prompt: RolloutPrompt
    tokens: list[int] = field(default_factory=list)
    is_done: bool = False
    uniforms: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prompt.prompt_ids) + len(self.tokens)

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.prompt.prompt_ids, *self.tokens)


@dataclass(frozen=True, slots=True)
class Rules:
    """How rows go on and when they end.

    Attributes:
        sampler: draws tokens.
        uniforms: gives a row its numbers.
        max_new_tokens: of a row.
        stop_ids: end-of-sequence ids.
        pad_id: fills rows on the left.
    """

    sampler: TokenSampler
    uniforms: Callable[[Row], np.ndarray]
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    pad_id: int

    def append(self, row: Row, token: int) -> None:
        row.tokens.append(token)
        row.is_done = token in self.stop_ids or len(row.tokens) == self.max_new_tokens

    def padded(self, sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return ids and mask, `[B, T]` each, padded on the left."""
        width = max(len(sequence) for sequence in sequences)
        ids = np.full((len(sequences), width), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for target, is_real, sequence in zip(ids, mask, sequences, strict=True):
            target[width - len(sequence) :] = sequence
            is_real[width - len(sequence) :] = 1
        return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def no_distribution(row: Row, rows: int) -> NumericalError:
    """Return the error of NaN logits."""
    return NumericalError(
        f"the policy returned NaN logits while sampling {rows} completions (problem {row.prompt.problem_id!r}); check "
        "the weights, or load them as float32 or bfloat16"
    )
