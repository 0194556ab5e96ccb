"""Runs the rows of a training batch with little padding, or none.

TRL pads the chosen and rejected sequences of a batch to its longest one. Here the model's forward pass takes such a
batch apart. Where that saves enough, a prompt is run once for all of its answers (`forward/prefix_sharing.py`). Where
the attention kernel allows it, all rows run end to end in one (`forward/packing.py`); elsewhere groups of rows that
need little padding run one after another, without an attention mask (they are padded on the right, and attention is
causal). The token log-probabilities are put back where TRL expects them: one forward call, one
backward pass and, without dropout, the same numbers up to rounding; fewer tokens computed. Dropout is drawn once for a
prompt that is run once.

What this file does not know: losses and pairs.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn

from sage_dpo.forward.batching import token_budget_batches
from sage_dpo.forward.packing import has_invocation_tokens, packing_arguments, supports_packing
from sage_dpo.forward.prefix_sharing import (
    Part,
    can_share_prompts,
    has_compiled_layers,
    parts_of,
    pays,
    sharing_arguments,
)

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
            DistributedDataParallel, which allows a layer one use in a backward pass. These run all rows in one.
    """
    if isinstance(model, PeftModel) and has_invocation_tokens(model):
        return  # the adapter was told where it begins in each row of the batch
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    forward = base.forward.__func__  # unbound: a deep copy of the model must run its own weights

    @functools.wraps(type(base).forward)  # `generate` reads the signature
    def compact(self: nn.Module, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return forward(self, *args, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if value is not None}  # PEFT passes every name
        is_understood = not args and set(kwargs) <= _UNDERSTOOD
        lengths = _lengths(kwargs.get("attention_mask")) if is_understood else None
        if lengths is None:
            return forward(self, *args, fused_lm_head=True, **kwargs)
        run = functools.partial(forward, self, use_cache=False, fused_lm_head=True)
        device, is_packed = kwargs["input_ids"].device, supports_packing(model)
        if can_share_prompts(model) and not has_compiled_layers(self):  # accelerate compiles a copy, which calls this
            parts = _parts(kwargs, lengths)
            if pays(model, parts, device) or not (is_packed or allows_groups):
                prefixes = [part.prefix for part in parts]
                return _run_in_one_row(run, kwargs, prefixes, sharing_arguments(model, parts, device))
        if is_packed:
            return _run_in_one_row(run, kwargs, [0] * len(lengths), packing_arguments(lengths, device))
        if allows_groups:
            return _run_in_groups(run, kwargs, lengths)
        return run(**kwargs)

    base.forward = types.MethodType(compact, base)


def _parts(batch: dict[str, Any], lengths: NDArray[np.int64]) -> list[Part]:
    """Return a part for each row; a prompt is what comes before the first label, or the first token."""
    ids, is_label = batch["input_ids"].cpu().numpy(), (batch["labels"] != _IGNORED).cpu().numpy()
    prompt_lengths = np.where(is_label.any(axis=1), is_label.argmax(axis=1), lengths).clip(min=1)
    prompts = [row[:length].tobytes() for row, length in zip(ids, prompt_lengths, strict=True)]
    return parts_of(prompts, lengths, prompt_lengths=prompt_lengths)


def _run_in_one_row(
    run: Callable[..., Any], batch: dict[str, Any], prefixes: Sequence[int], arguments: dict[str, Any]
) -> Any:
    """Run what comes behind each row's prefix in one row; the outputs are those of the padded batch, zero elsewhere."""
    is_token = batch["attention_mask"].bool()
    columns = torch.arange(is_token.shape[1], device=is_token.device)
    starts = torch.tensor(prefixes, device=is_token.device)[:, None]
    is_run, is_start = is_token & (columns >= starts), columns == starts
    labels = batch["labels"].masked_fill(is_start, _IGNORED)  # a row's first token is predicted by nothing
    output = run(input_ids=batch["input_ids"][is_run][None], labels=labels[is_run][None], **arguments)
    is_within = ~is_start[is_run][1:]  # of the predicted tokens, those in the row of the token before
    is_predicted = (is_run & ~is_start)[:, 1:]

    def unpack(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        whole = values.new_zeros(is_predicted.shape)
        whole[is_predicted.to(values.device)] = values[0][is_within.to(values.device)]
        return whole

    return type(output)(**{name: unpack(getattr(output, name)) for name in _PER_TOKEN})


def _run_in_groups(run: Callable[..., Any], batch: dict[str, Any], lengths: NDArray[np.int64]) -> Any:
    """Run groups of rows of similar length one after another; outputs as for `_run_in_one_row`."""
    ids, labels = batch["input_ids"], batch["labels"]
    limit = PADDING_LIMIT["cpu" if ids.device.type == "cpu" else "cuda"]
    groups = token_budget_batches(lengths, token_budget=ids.numel(), padding_limit=limit)
    outputs = []
    for group in groups:
        rows, longest = torch.from_numpy(group).to(ids.device), int(lengths[group[0]])
        part = {"input_ids": ids[rows, :longest], "labels": labels[rows, :longest]}
        outputs.append(run(**part))
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
