"""Runs the rows of a training batch in groups of similar length.

TRL pads the chosen and rejected sequences of a batch to its longest one. Here the model's forward pass takes such a
batch apart, runs groups of rows that need little padding one after another, without an attention mask (they are padded
on the right, and attention is causal), and puts the token log-probabilities back where TRL expects them. One forward
call, one backward pass and the same numbers up to rounding; fewer tokens computed.

What this file does not know: losses and pairs.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from sage_dpo.scoring.batching import token_budget_batches

PADDING_LIMIT = {"cpu": 128, "cuda": 2048}
"""Padding a group may hold, in tokens; below it, another forward and backward pass costs more than it saves. On a CPU
measured, on a GPU estimated from the time it takes to launch the kernels of a model."""

_UNDERSTOOD = {"input_ids", "attention_mask", "labels", "use_cache"}
_PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")


def group_rows_by_length(model: nn.Module) -> None:
    """Patch the forward pass of a model that TRL gave a fused head (`add_fused_lm_head`).

    Calls with other inputs than plain text (images, router logits, embeddings) or with padding on the left pass
    through. Not for models whose weights are sharded: their processes would run the layers unequally often. Nor for
    reentrant gradient checkpointing under DistributedDataParallel, which allows a layer one use in a backward pass.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    forward = base.forward.__func__  # unbound: a deep copy of the model must run its own weights

    @functools.wraps(type(base).forward)  # `generate` reads the signature
    def grouped(self: nn.Module, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return forward(self, *args, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if value is not None}  # PEFT passes every name
        lengths = None if args or not set(kwargs) <= _UNDERSTOOD else _lengths(kwargs.get("attention_mask"))
        if lengths is None:
            return forward(self, *args, fused_lm_head=True, **kwargs)
        ids, labels = kwargs["input_ids"], kwargs["labels"]
        limit = PADDING_LIMIT["cpu" if ids.device.type == "cpu" else "cuda"]
        groups = token_budget_batches(lengths, token_budget=ids.numel(), padding_limit=limit)
        outputs = []
        for group in groups:
            rows, longest = torch.from_numpy(group).to(ids.device), int(lengths[group[0]])
            part = {"input_ids": ids[rows, :longest], "labels": labels[rows, :longest]}
            outputs.append(forward(self, **part, use_cache=False, fused_lm_head=True))
        place = torch.from_numpy(np.argsort(np.concatenate(groups))).to(outputs[0].log_probs.device)
        merged = {
            name: _merge([getattr(output, name) for output in outputs], place, ids.shape[1] - 1) for name in _PER_TOKEN
        }
        return type(outputs[0])(**merged)

    base.forward = types.MethodType(grouped, base)


def _lengths(mask: Tensor | None) -> np.ndarray | None:
    """Return `[B]` lengths of rows padded on the right; `None` if they are not, or if there is one row."""
    if mask is None or mask.dim() != 2 or len(mask) < 2 or not bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return None
    lengths: np.ndarray = mask.sum(dim=1).cpu().numpy()
    return lengths if lengths.min() > 1 else None


def _merge(parts: list[Tensor | None], place: Tensor, width: int) -> Tensor | None:
    """Stack `[rows, <= width]` parts, fill up with zeros on the right, and put the rows in their places."""
    whole = [part for part in parts if part is not None]
    if not whole:
        return None
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[1])) for part in whole])[place]
