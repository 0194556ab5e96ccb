"""Runs the rows of a training batch with little padding, or none.

TRL pads the chosen and rejected sequences of a batch to its longest one. Here the model's forward pass takes such a
batch apart. Where the attention kernel allows it, all rows run end to end in one (`scoring/packing.py`); elsewhere
groups of rows that need little padding run one after another, without an attention mask (they are padded on the right,
and attention is causal). The token log-probabilities are put back where TRL expects them: one forward call, one
backward pass and the same numbers up to rounding; fewer tokens computed.

What this file does not know: losses and pairs.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn

from sage_dpo.scoring.batching import token_budget_batches
from sage_dpo.scoring.packing import packing_arguments, supports_packing

PADDING_LIMIT = {"cpu": 128, "cuda": 2048}
"""Padding a group may hold, in tokens; below it, another forward and backward pass costs more than it saves. On a CPU
measured, on a GPU estimated from the time it takes to launch the kernels of a model."""

_IGNORED = -100  # label of a token that is not scored
_UNDERSTOOD = {"input_ids", "attention_mask", "labels", "use_cache"}
_PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")


def remove_padding(model: nn.Module, *, allows_groups: bool) -> None:
    """Patch the forward pass of a model that TRL gave a fused head (`add_fused_lm_head`).

    Calls with other inputs than plain text (images, router logits, embeddings) or with padding on the left pass
    through.

    Args:
        model: the policy, before accelerate wraps it.
        allows_groups: whether layers may run several times in a forward call, and unequally often on the processes of
            a run. Not so for models whose weights are sharded, nor for reentrant gradient checkpointing under
            DistributedDataParallel, which allows a layer one use in a backward pass. These can run packed only.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    forward = base.forward.__func__  # unbound: a deep copy of the model must run its own weights

    @functools.wraps(type(base).forward)  # `generate` reads the signature
    def compact(self: nn.Module, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return forward(self, *args, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if value is not None}  # PEFT passes every name
        lengths = None if args or not set(kwargs) <= _UNDERSTOOD else _lengths(kwargs.get("attention_mask"))
        if lengths is not None and supports_packing(model):
            return _run_packed(functools.partial(forward, self), kwargs, lengths)
        if lengths is not None and allows_groups:
            return _run_in_groups(functools.partial(forward, self), kwargs, lengths)
        return forward(self, *args, fused_lm_head=True, **kwargs)

    base.forward = types.MethodType(compact, base)


def _run_packed(forward: Callable[..., Any], batch: dict[str, Any], lengths: NDArray[np.int64]) -> Any:
    """Run all rows in one; the outputs are those of the padded batch, zero at its padding."""
    is_token = batch["attention_mask"].bool()
    is_start = torch.zeros_like(is_token)
    is_start[:, 0] = True
    labels = batch["labels"].masked_fill(is_start, _IGNORED)  # a row's first token is predicted by nothing
    arguments = packing_arguments(lengths, is_token.device)
    ids = batch["input_ids"][is_token][None]
    output = forward(input_ids=ids, labels=labels[is_token][None], **arguments, use_cache=False, fused_lm_head=True)
    is_within = ~is_start[is_token][1:]  # of the predicted tokens, those in the row of the token before

    def unpack(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        whole = values.new_zeros(is_token.shape[0], is_token.shape[1] - 1)
        place = is_token[:, 1:].to(values.device)
        whole[place] = values[0][is_within.to(values.device)]
        return whole

    return type(output)(**{name: unpack(getattr(output, name)) for name in _PER_TOKEN})


def _run_in_groups(forward: Callable[..., Any], batch: dict[str, Any], lengths: NDArray[np.int64]) -> Any:
    """Run groups of rows of similar length one after another; outputs as for `_run_packed`."""
    ids, labels = batch["input_ids"], batch["labels"]
    limit = PADDING_LIMIT["cpu" if ids.device.type == "cpu" else "cuda"]
    groups = token_budget_batches(lengths, token_budget=ids.numel(), padding_limit=limit)
    outputs = []
    for group in groups:
        rows, longest = torch.from_numpy(group).to(ids.device), int(lengths[group[0]])
        part = {"input_ids": ids[rows, :longest], "labels": labels[rows, :longest]}
        outputs.append(forward(**part, use_cache=False, fused_lm_head=True))
    place = torch.from_numpy(np.argsort(np.concatenate(groups))).to(outputs[0].log_probs.device)
    merged = {
        name: _merge([getattr(output, name) for output in outputs], place, ids.shape[1] - 1) for name in _PER_TOKEN
    }
    return type(outputs[0])(**merged)


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
