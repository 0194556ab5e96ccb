"""Prefix sharing: a prompt is run once for all of its completions.

All run in one row, without padding: a prompt with its first completion, behind it the prompt's other completions, each
led by the prompt's last token, whose state predicts their first token. A `Segment` of the row attends to itself and to
its prefix, the first tokens of an earlier segment, and its positions count on from there. Attention is causal, so a
prompt's states do not depend on what follows it, and every completion gets what it gets alone.

Transformers' attention functions do not know of segments. The one that a model uses is registered anew, wrapped; called
without segments, it does what it did. FlashAttention takes sequences whose keys are more than their queries, so its
keys are gathered; PyTorch's own attention (sdpa) runs segment by segment, which costs calls.

What this file does not know: heads, log-probabilities, pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from transformers.modeling_flash_attention_utils import flash_attn_supports_top_left_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sage_dpo.forward.packing import has_windows, is_flash, packable_config, packing_arguments, supports_packing

MIN_SAVED_SHARE = 0.1
"""Share of the tokens that must be saved. On a CPU the time saved is about the share of tokens saved from there on
(`benchmarks.shared_prompts`)."""

MIN_SAVED_PER_SEGMENT = {"cpu": 8, "cuda": 256}
"""Tokens that must be saved per segment, on average, where attention runs segment by segment. On a CPU, tried by hand
with models of width 64 and 128: 3.5 made a pass slower, 12 faster. On a GPU an estimate, from the time it takes to
launch a segment's kernels."""

_MAX_MASKED = 512
"""Tokens of a segment, at most, that attend with a mask, which PyTorch's attention needs behind a prefix. Longer ones
attend together with their prefix, without a mask: a backward pass keeps masks, as large as queries times keys."""


class Segment(NamedTuple):
    """Tokens of a row that belong together.

    Attributes:
        length: tokens.
        prefix: tokens that come before them: the first of segment number `origin`.
        origin: number of the first segment with the same prompt, which has no prefix.
    """

    length: int
    prefix: int
    origin: int


def supports_prefix_sharing(model: nn.Module) -> bool:
    """Whether `model`, possibly wrapped, can run with segments.

    One of `PACKED_MODELS` with FlashAttention, or with PyTorch's attention and without sliding windows. Not with
    compiled layers, which would be compiled again for every new set of segments.
    """
    config = packable_config(model)
    if config is None or _has_compiled_layers(model):
        return False
    attention = config._attn_implementation
    if is_flash(attention):
        return not flash_attn_supports_top_left_mask()  # of fewer queries than keys, they must be the last
    return attention == "sdpa" and not has_windows(config)


def _has_compiled_layers(model: nn.Module) -> bool:
    return any(isinstance(m, OptimizedModule) or m._compiled_call_impl is not None for m in model.modules())


def segments_of(prompts: Sequence[Sequence[int]], lengths: NDArray[np.int64]) -> list[Segment]:
    """Return the segments of a row that holds sequences one after another: of a prompt only the first has all of it.

    Arguments as for `batching.group_by_prompt`.
    """
    segments: list[Segment] = []
    first: dict[Hashable, int] = {}
    for number, (prompt, length) in enumerate(zip(prompts, lengths.tolist(), strict=True)):
        origin = first.setdefault(prompt, number)
        prefix = 0 if origin == number else len(prompt) - 1
        segments.append(Segment(length - prefix, prefix, origin))
    return segments


def saved_share(segments: Sequence[Segment]) -> float:
    """Return the share of the sequences' tokens that need not be run."""
    saved = sum(segment.prefix for segment in segments)
    return saved / max(1, saved + sum(segment.length for segment in segments))


def is_worth_sharing(model: nn.Module, segments: Sequence[Segment], device: torch.device | str) -> bool:
    """Whether sharing prefixes saves enough tokens; arguments as for `segment_arguments`."""
    saved = sum(segment.prefix for segment in segments)
    kind = "cpu" if torch.device(device).type == "cpu" else "cuda"
    per_segment = 0 if is_flash(_attention_of(model)) else MIN_SAVED_PER_SEGMENT[kind]
    return saved > 0 and saved >= per_segment * len(segments) and saved_share(segments) >= MIN_SAVED_SHARE


def segment_arguments(model: nn.Module, segments: Sequence[Segment], device: torch.device | str) -> dict[str, Any]:
    """Return what a model must be told to run `segments` in its one row; its attention is wrapped where it must be.

    Args:
        model: one that `supports_prefix_sharing`, or `supports_packing` if no segment has a prefix.
        segments: in the order of the row.
        device: of the model's input.
    """
    lengths, prefixes = (np.array(column, dtype=np.int64) for column in list(zip(*segments, strict=True))[:2])
    if supports_packing(model) and not prefixes.any():
        return packing_arguments(lengths, device)
    attention = _attention_of(model)
    _wrap_attention(attention)
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts - prefixes, lengths)
    position_ids = torch.from_numpy(positions)[None].to(device)
    if not is_flash(attention):
        # Transformers makes no mask beside one of four dimensions. This one fits no attention that would apply it, but
        # has an entry for each token, which is what the losses of routers read.
        ignored = torch.ones(1, len(positions), 1, 1, dtype=torch.bool, device=device)
        return {"position_ids": position_ids, "attention_mask": ignored, "segments": list(segments)}
    own = [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    index = [np.concatenate([own[s.origin][: s.prefix], here]) for s, here in zip(segments, own, strict=True)]
    keys = packing_arguments(lengths + prefixes, device)
    return packing_arguments(lengths, device) | {
        "position_ids": position_ids,
        "cu_seq_lens_k": keys["cu_seq_lens_k"],
        "max_length_k": keys["max_length_k"],
        "key_index": torch.from_numpy(np.concatenate(index)).to(device),
    }


def _attention_of(model: nn.Module) -> str:
    config = packable_config(model)
    assert config is not None, "supports_prefix_sharing was not asked"
    return str(config._attn_implementation)


# -- attention ---------------------------------------------------------------------------------------------------------

Attention = Callable[..., tuple[Tensor, Tensor | None]]


def _wrap_attention(name: str) -> None:
    attend: Any = ALL_ATTENTION_FUNCTIONS[name]
    if not hasattr(attend, "supports_segments"):
        wrapped: Any = _with_segments(attend)
        wrapped.supports_segments = True
        ALL_ATTENTION_FUNCTIONS.register(name, wrapped)


def _with_segments(attend: Attention) -> Attention:
    """Let attention run segment by segment, or find a segment's keys, its prefix's included, next to each other."""

    @functools.wraps(attend)
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        segments: Sequence[Segment] | None = None,
        key_index: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if segments is not None:
            return _attend_by_segment(functools.partial(attend, module, **options), segments, query, key, value), None
        if key_index is not None:
            key, value = (states.index_select(2, key_index.to(states.device)) for states in (key, value))
        return attend(module, query, key, value, attention_mask, **options)

    return attention


def _attend_by_segment(
    attend: Attention, segments: Sequence[Segment], query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Return `[1, T, heads, D]`; states are `[1, heads, T, D]`."""
    lengths = [segment.length for segment in segments]
    queries, keys, values = (states.split(lengths, dim=2) for states in (query, key, value))
    results = []
    for number, segment in enumerate(segments):
        q, k, v = queries[number], keys[number], values[number]
        mask, skipped = None, 0
        if segment.prefix:
            k, v = (_with_prefix(states, segment, number) for states in (keys, values))
            if segment.length > _MAX_MASKED:
                q, skipped = _with_prefix(queries, segment, number), segment.prefix
            else:
                mask = torch.ones(1, 1, segment.length, k.shape[2], dtype=torch.bool, device=q.device)
                mask = mask.tril(segment.prefix)
        results.append(attend(q, k, v, mask)[0][:, skipped:])
    return torch.cat(results, dim=1)


def _with_prefix(states: Sequence[Tensor], segment: Segment, number: int) -> Tensor:
    return torch.cat([states[segment.origin][:, :, : segment.prefix], states[number]], dim=2)
