"""Sampling by a model's own `generate`, a batch until its longest row has ended.

For models that are not decoded in slots (`known_models`), such as those with recurrent states.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sage_dpo.rollouts.rows import Row, Rules, no_distribution
from sage_dpo.rollouts.sampling import TokenSampler


class _SampledToken(LogitsProcessor):
    """Turns scores into one-hot scores of the sampled token, so that `generate(do_sample=False)` picks it.

    Args:
        uniforms: `[B, steps]`, one number a row and step.
    """

    def __init__(self, sampler: TokenSampler, uniforms: Tensor) -> None:
        self._sampler = sampler
        self._columns = uniforms.T.contiguous()
        self._step = 0
        self.is_valid = torch.ones(len(uniforms), dtype=torch.bool, device=uniforms.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens = self._sampler(scores, self._columns[self._step])
        self.is_valid &= tokens >= 0
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens.clamp(min=0)[:, None], 0.0)


def generate_batches(
    model: Any, rows: Sequence[Row], rules: Rules, *, batch_size: int, pads: bool
) -> Iterator[list[Row]]:
    """Extend `rows` to their end and yield them, a batch at a time.

    Args:
        model: a transformers or PEFT model.
        rows: batched in this order.
        rules: how rows go on and when they end.
        batch_size: most rows at once.
        pads: whether rows of unequal lengths may share a batch; otherwise a batch ends where the length changes.

    Raises:
        NumericalError: the model returned NaN logits.
    """
    device = next(model.parameters()).device
    for batch in _batches(rows, batch_size, pads):
        ids, mask = rules.padded([row.ids for row in batch], device)
        uniforms = torch.from_numpy(np.stack([rules.uniforms(row) for row in batch]))
        sampled = _SampledToken(rules.sampler, uniforms.to(device))
        sequences = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=rules.max_new_tokens,
                eos_token_id=list(rules.stop_ids),
                pad_token_id=rules.pad_id,
                use_cache=True,
            ),
            logits_processor=LogitsProcessorList([sampled]),
            synced_gpus=False,  # a process samples as long as its own rows need
        )
        if not bool(sampled.is_valid.all()):
            raise no_distribution(batch[int(sampled.is_valid.int().argmin())], len(batch))
        for row, tokens in zip(batch, sequences[:, ids.shape[1] :].tolist(), strict=True):
            for token in tokens:
                if not row.is_done:
                    rules.append(row, token)
        yield batch


def _batches(rows: Sequence[Row], batch_size: int, pads: bool) -> Iterator[list[Row]]:
    alike = [list(rows)] if pads else [list(group) for _, group in itertools.groupby(rows, key=len)]
    for group in alike:
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]
