"""Runs the rows of a training batch with little padding, or none.

TRL pads the chosen and rejected sequences of a batch to its longest one. Here the model's forward pass takes such a
batch apart, as `layout.py` decides, and puts the token log-probabilities back where TRL expects them: one forward call,
one backward pass and, without dropout, the same numbers up to rounding; fewer tokens computed. Dropout, and NEFTune's
noise, are drawn once for a prompt that is run once.

What this file does not know: losses and pairs.
"""

from __future__ import annotations

import contextlib
import functools
import math
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn

from sage_dpo.forward.layout import choose_layout
from sage_dpo.forward.packing import has_invocation_tokens
from sage_dpo.forward.prefix_sharing import Segment, segment_arguments

PADDING_LIMIT = {"cpu": 128, "cuda": 2048}
"""Padding a group may hold, in tokens; below it, another forward and backward pass costs more than it saves. On a CPU
measured, on a GPU estimated from the time it takes to launch the kernels of a model."""

_IGNORED = -100  # label of a token that is not scored
_TEXT_INPUTS = {"input_ids", "attention_mask", "labels", "use_cache"}
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
        is_text = not args and set(kwargs) <= _TEXT_INPUTS
        lengths = _lengths(kwargs.get("attention_mask")) if is_text else None
        if lengths is None:
            return forward(self, *args, fused_lm_head=True, **kwargs)
        run = functools.partial(forward, self, use_cache=False, fused_lm_head=True)
        device = kwargs["input_ids"].device
        layout = choose_layout(
            self,
            _prompts(kwargs, lengths),
            lengths,
            device=device,
            padding_limit=PADDING_LIMIT["cpu" if device.type == "cpu" else "cuda"],
            allows_groups=allows_groups,
        )
        if layout.kind == "padded":
            return run(**kwargs)
        results, padded = [], kwargs["input_ids"].shape[1]
        for members, segments in layout.passes:
            if segments is None:
                longest = int(lengths[members].max())
                with _noise_of_padded_rows(self, longest, padded):
                    results.append(_run_group(run, kwargs, members, longest))
            else:
                with _noise_of_padded_rows(self, sum(segment.length for segment in segments), padded):
                    results.append(_run_in_one_row(run, kwargs, segments, segment_arguments(self, segments, device)))
        return _merge(results, (len(lengths), padded - 1))

    base.forward = types.MethodType(compact, base)


@contextlib.contextmanager
def _noise_of_padded_rows(model: Any, width: int, padded: int) -> Iterator[None]:
    """Give NEFTune's noise, alpha / sqrt(tokens of a row x embedding size), the size it has in the padded batch.

    Args:
        model: the one that runs.
        width: tokens of the row, or rows, of this pass.
        padded: of a row of the padded batch.
    """
    embeddings: Any = extract_model_from_parallel(model.get_input_embeddings())
    alpha = getattr(embeddings, "neftune_noise_alpha", None)  # transformers' hook reads it there
    if alpha is None:
        yield
        return
    embeddings.neftune_noise_alpha = alpha * math.sqrt(width / padded)
    try:
        yield
    finally:
        embeddings.neftune_noise_alpha = alpha


def _lengths(mask: Tensor | None) -> np.ndarray | None:
    """Return `[B]` lengths of rows padded on the right; `None` if they are not, or if there is one row."""
    if mask is None or mask.dim() != 2 or len(mask) < 2 or not bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return None
    lengths: np.ndarray = mask.sum(dim=1).cpu().numpy()
    return lengths if lengths.min() > 1 else None


def _prompts(batch: dict[str, Any], lengths: NDArray[np.int64]) -> list[tuple[int, ...]]:
    """Return each row's prompt: what comes before its first label, all of it if it has none, at least a token."""
    ids, is_label = batch["input_ids"].cpu().numpy(), (batch["labels"] != _IGNORED).cpu().numpy()
    ends = np.where(is_label.any(axis=1), is_label.argmax(axis=1), lengths).clip(min=1)
    return [tuple(row[:end].tolist()) for row, end in zip(ids, ends, strict=True)]


_Result = tuple[Any, Any, Any]
"""Output of a pass, and indices: its values at the first belong into the padded batch's at the second."""


def _run_in_one_row(
    run: Callable[..., Any], batch: dict[str, Any], segments: Sequence[Segment], arguments: dict[str, Any]
) -> _Result:
    """Run what comes behind each row's prefix in one row."""
    is_token = batch["attention_mask"].bool()
    columns = torch.arange(is_token.shape[1], device=is_token.device)
    starts = torch.tensor([segment.prefix for segment in segments], device=is_token.device)[:, None]
    is_run, is_start = is_token & (columns >= starts), columns == starts
    labels = batch["labels"].masked_fill(is_start, _IGNORED)  # a row's first token is predicted by nothing
    output = run(input_ids=batch["input_ids"][is_run][None], labels=labels[is_run][None], **arguments)
    is_within = ~is_start[is_run][1:]  # of the predicted tokens, those in the row of the token before
    is_predicted = (is_run & ~is_start)[:, 1:]
    device = output.log_probs.device  # a model spread over several GPUs ends on another than it begins
    return output, (0, is_within.to(device)), is_predicted.to(device)


def _run_group(run: Callable[..., Any], batch: dict[str, Any], members: NDArray[np.int64], longest: int) -> _Result:
    """Run some rows, cut to the longest of them, without an attention mask: padding is on the right."""
    rows = torch.from_numpy(members).to(batch["input_ids"].device)
    output = run(input_ids=batch["input_ids"][rows, :longest], labels=batch["labels"][rows, :longest])
    return output, ..., (rows.to(output.log_probs.device), slice(longest - 1))


def _merge(results: Sequence[_Result], shape: tuple[int, int]) -> Any:
    """Return the output of the padded batch, `shape` its predicted tokens; zero where nothing was run."""

    def whole(name: str) -> Tensor | None:
        values = [getattr(output, name) for output, _, _ in results]
        if values[0] is None:
            return None
        merged: Tensor = values[0].new_zeros(shape)
        for value, (_, source, place) in zip(values, results, strict=True):
            merged[place] = value[source]
        return merged

    return type(results[0][0])(**{name: whole(name) for name in _PER_TOKEN})
