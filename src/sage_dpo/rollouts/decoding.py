"""Completions decoded together, each ending when it ends: a freed slot goes to the next prompt (continuous batching).

A step runs one token of every live row. Rows that ended give their slots up at once, and once an eighth of the slots
is free, the next prompts are prefilled into them, a prompt once for all of its samples, and what all prompts begin with
once for all of them.

All rows share the cache's columns (`slot_cache`), so that one row of 2,000 tokens would make every other as wide. Rows
that have become much longer than the rest go back to the queue and are decoded with their like at the end; their
prefix is run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from sage_dpo.rollouts.rows import Row, Rules, no_distribution
from sage_dpo.rollouts.slot_cache import SlotCache

_ADMITTED_SHARE = 8  # prompts are prefilled when 1/8 of the slots is free
_LEAST_SHARED = 8  # tokens that all prompts begin with, for them to be run apart
_STRAGGLER_RATIO = 2  # rows this much longer than 7/8 of the rows wait for the end


class Decoder:
    """Extends rows to their end.

    Args:
        model: whose cache can be used in slots (`can_use_slots`).
        rules: how rows go on and when they end.
        slots: most rows at once.
    """

    def __init__(self, model: Any, rules: Rules, *, slots: int) -> None:
        self._model = model
        self._rules = rules
        self._slots = slots
        self._device = next(model.parameters()).device
        self._cache = SlotCache(model.config, slots)
        self._live: list[Row] = []
        self._shared: DynamicCache | None = None

    def run(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Extend `rows`, taken up in this order, and yield them as they finish, a few at a time.

        Raises:
            NumericalError: the model returned NaN logits.
        """
        self._shared = self._prefill_shared(rows)
        queue: list[Row] = list(rows)
        late: list[Row] = []
        while queue or late or self._live:
            if not queue and len(self._live) <= self._slots // 2:
                queue, late = sorted(late, key=len, reverse=True), []
            free = self._slots - len(self._live)
            if queue and free >= max(1, self._slots // _ADMITTED_SHARE):
                admitted, queue = queue[:free], queue[free:]
                done = self._admit(admitted)
            else:
                if queue and self._cache.is_full:
                    late += self._release(self._stragglers())
                done = self._step()
            if done:
                yield self._release(done)

    def _prefill_shared(self, rows: Sequence[Row]) -> DynamicCache | None:
        """Run the tokens that all prompts begin with, such as a system prompt, once; `None` if that is not worth it."""
        prompts = {row.prompt.prompt_ids for row in rows}
        if len(prompts) < 2 or self._cache.has_windows:
            return None
        ends = zip(min(prompts), max(prompts), strict=False)  # the first and the last in order differ the earliest
        equal = next((place for place, (a, b) in enumerate(ends) if a != b), len(min(prompts)))
        count = min(equal, min(map(len, prompts)) - 1)
        if count < _LEAST_SHARED:
            return None
        prefix = DynamicCache()
        ids = torch.tensor([rows[0].prompt.prompt_ids[:count]], device=self._device)
        self._model(input_ids=ids, past_key_values=prefix, use_cache=True, logits_to_keep=1)
        return prefix

    def _admit(self, rows: list[Row]) -> list[int]:
        """Prefill rows, equal ones once, and sample a token of each; return the slots that are done."""
        places: dict[tuple[int, ...], int] = {}
        copies = torch.tensor([places.setdefault(row.ids, len(places)) for row in rows], device=self._device)
        shared = self._shared.get_seq_length() if self._shared else 0
        ids, mask = self._rules.padded([own[shared:] for own in places], self._device)
        prefix = DynamicCache()  # without the configuration: layers with windows keep everything
        if self._shared:
            layers: Any = self._shared.layers
            for index, layer in enumerate(layers):
                prefix.update(layer.keys.expand(len(ids), -1, -1, -1), layer.values.expand(len(ids), -1, -1, -1), index)
        logits = self._model(
            input_ids=ids,
            attention_mask=torch.nn.functional.pad(mask, (shared, 0), value=1),
            position_ids=shared + (mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=prefix,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self._cache.insert(prefix, copies, (mask == 0).sum(-1)[copies], shared)
        self._live += rows
        for row in rows:
            row.uniforms = self._rules.uniforms(row)
        return self._sample(rows, logits[copies])

    def _step(self) -> list[int]:
        """Run the newest token of every live row and sample the next; return the slots that are done."""
        cached = torch.tensor([len(row) - 1 for row in self._live], device=self._device)
        longest = max(len(row) - 1 for row in self._live)
        self._cache.open_column(longest)
        columns = torch.arange(longest + 1, device=self._device)
        logits = self._model(
            input_ids=torch.tensor([[row.tokens[-1]] for row in self._live], device=self._device),
            attention_mask=(columns >= longest - cached[:, None]).long(),
            position_ids=cached[:, None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self._cache.close_column()
        return self._sample(self._live, logits)

    def _sample(self, rows: list[Row], logits: Tensor) -> list[int]:
        """Add a token to each of the last live rows; return the slots that are done."""
        numbers = np.array([row.uniforms[len(row.tokens)] for row in rows if row.uniforms is not None])
        tokens = self._rules.sampler(logits, torch.from_numpy(numbers).to(self._device)).tolist()
        for row, token in zip(rows, tokens, strict=True):
            if token < 0:
                raise no_distribution(row, len(rows))
            self._rules.append(row, token)
        first = len(self._live) - len(rows)
        return [slot for slot, row in enumerate(rows, first) if row.is_done]

    def _stragglers(self) -> list[int]:
        """Return the slots of rows so much longer than the others that they had better wait."""
        usual = sorted(len(row) for row in self._live)[len(self._live) * 7 // 8]
        return [slot for slot, row in enumerate(self._live) if len(row) > _STRAGGLER_RATIO * usual]

    def _release(self, slots: list[int]) -> list[Row]:
        """Free slots, given in order, and return their rows; rows from the end take the places in between."""
        released = [self._live[slot] for slot in slots]
        for row in released:
            row.uniforms = None
        kept = len(self._live) - len(slots)
        movers = sorted(set(range(kept, len(self._live))).difference(slots))
        self._cache.drop(slots, movers)
        for hole, mover in zip(slots, movers, strict=False):  # the other slots are at the end
            self._live[hole] = self._live[mover]
        del self._live[kept:]
        return released
