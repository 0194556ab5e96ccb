"""A prompt is run once for all of its completions.

All run in one row, without padding: a prompt with its first completion, behind it the prompt's other completions, each
led by the prompt's last token, whose state predicts their first token. A `Part` of the row attends to itself and to
the first tokens of the part that it goes on from, and its positions count on from there. Attention is causal, so a
prompt's states do not depend on what follows it, and every completion gets what it gets alone.

Transformers' attention functions do not know of parts. The one that a model uses is registered anew, wrapped; called
without parts, it does what it did. FlashAttention takes sequences whose keys are more than their queries, so its keys
are gathered; PyTorch's own attention (sdpa) runs part by part, which costs calls.

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

from sage_dpo.forward.packing import has_windows, is_flash, packable_config, packing_arguments

LEAST_SAVED = 0.1
"""Share of the tokens that must be saved. On a CPU the time saved is about the share of tokens saved from there on
(`benchmarks.shared_prompts`)."""

LEAST_PER_PART = {"cpu": 8, "cuda": 256}
"""Tokens that must be saved per part, on average, where attention runs part by part. On a CPU, tried by hand with
models of width 64 and 128: 3.5 made a pass slower, 12 faster. On a GPU an estimate, from the time it takes to launch a
part's kernels."""

_MASKED = 512
"""Tokens of a part, at most, that attend with a mask, which PyTorch's attention needs behind a prompt. Longer parts
attend together with their prompt, without one: a backward pass keeps masks, as large as queries times keys."""


class Part(NamedTuple):
    """Tokens of the row that belong together.

    Attributes:
        length: tokens.
        prefix: tokens that come before them: the first of part number `origin`.
        origin: number of the first part with the same prompt, which has no prefix.
    """

    length: int
    prefix: int
    origin: int


def can_share_prompts(model: nn.Module) -> bool:
    """Whether `model`, possibly wrapped, can run with parts.

    One of `PACKED_MODELS` with FlashAttention, or with PyTorch's attention and without sliding windows. Not with
    compiled layers, which would be compiled again for every new set of parts.
    """
    config = packable_config(model)
    if config is None or has_compiled_layers(model):
        return False
    attention = config._attn_implementation
    if is_flash(attention):
        return not flash_attn_supports_top_left_mask()  # of fewer queries than keys, they must be the last
    return attention == "sdpa" and not has_windows(config)


def has_compiled_layers(model: nn.Module) -> bool:
    """Whether `torch.compile` was applied to the model or to modules of it."""
    return any(isinstance(m, OptimizedModule) or m._compiled_call_impl is not None for m in model.modules())


def group_by_prompt(
    prompts: Sequence[Hashable], lengths: NDArray[np.int64], *, prompt_lengths: NDArray[np.int64], token_budget: float
) -> list[NDArray[np.int64]]:
    """Group sequences that share a prompt.

    Args:
        prompts: `[N]`, equal where prompts are.
        lengths: `[N]` tokens of the sequences, prompts included.
        prompt_lengths: `[N]` tokens of the prompts, >= 1.
        token_budget: no group takes more tokens in a row (`parts_of`), unless it is a single sequence.

    Returns:
        Index arrays that together hold each of 0..N-1 once, in order of first appearance.
    """
    groups: list[list[int]] = []
    tokens: list[int] = []
    latest: dict[Hashable, int] = {}  # of each prompt, the group that may have room
    for index, prompt in enumerate(prompts):
        added = int(lengths[index] - prompt_lengths[index]) + 1
        group = latest.get(prompt)
        if group is not None and tokens[group] + added <= token_budget:
            groups[group].append(index)
            tokens[group] += added
        else:
            latest[prompt] = len(groups)
            groups.append([index])
            tokens.append(int(lengths[index]))
    return [np.array(group, dtype=np.int64) for group in groups]


def parts_of(
    prompts: Sequence[Hashable], lengths: NDArray[np.int64], *, prompt_lengths: NDArray[np.int64]
) -> list[Part]:
    """Return the parts of a row that holds sequences one after another: of a prompt only its first one has all of it.

    Arguments as for `group_by_prompt`.
    """
    parts: list[Part] = []
    first: dict[Hashable, int] = {}
    for number, prompt in enumerate(prompts):
        origin = first.setdefault(prompt, number)
        prefix = 0 if origin == number else int(prompt_lengths[number]) - 1
        parts.append(Part(int(lengths[number]) - prefix, prefix, origin))
    return parts


def saved_share(parts: Sequence[Part]) -> float:
    """Return the share of the sequences' tokens that need not be run."""
    saved = sum(part.prefix for part in parts)
    return saved / max(1, saved + sum(part.length for part in parts))


def pays(model: nn.Module, parts: Sequence[Part], device: torch.device | str) -> bool:
    """Whether sharing prompts saves enough tokens; arguments as for `sharing_arguments`."""
    saved = sum(part.prefix for part in parts)
    kind = "cpu" if torch.device(device).type == "cpu" else "cuda"
    per_part = 0 if is_flash(_attention_of(model)) else LEAST_PER_PART[kind]
    return saved > 0 and saved >= per_part * len(parts) and saved_share(parts) >= LEAST_SAVED


def sharing_arguments(model: nn.Module, parts: Sequence[Part], device: torch.device | str) -> dict[str, Any]:
    """Return what a model must be told to run `parts` in its one row, and teach its attention to listen.

    Args:
        model: one that `can_share_prompts`.
        parts: in the order of the row.
        device: of the model's input.
    """
    attention = _attention_of(model)
    lengths, prefixes = (np.array(column, dtype=np.int64) for column in list(zip(*parts, strict=True))[:2])
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts - prefixes, lengths)
    if not is_flash(attention):
        _teach(attention)
        # Transformers makes no mask beside one of four dimensions. This one fits no attention that would apply it, but
        # has an entry for each token, which is what the losses of routers read.
        ignored = torch.ones(1, len(positions), 1, 1, dtype=torch.bool, device=device)
        return {"position_ids": _to(positions, device), "attention_mask": ignored, "parts": list(parts)}
    _teach(attention)
    own = [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    places = [np.concatenate([own[part.origin][: part.prefix], here]) for part, here in zip(parts, own, strict=True)]
    keys = packing_arguments(lengths + prefixes, device)
    return packing_arguments(lengths, device) | {
        "position_ids": _to(positions, device),
        "cu_seq_lens_k": keys["cu_seq_lens_k"],
        "max_length_k": keys["max_length_k"],
        "key_places": _to(np.concatenate(places), device)[0],
    }


def _attention_of(model: nn.Module) -> str:
    config = packable_config(model)
    assert config is not None, "can_share_prompts was not asked"
    return str(config._attn_implementation)


def _to(values: NDArray[np.int64], device: torch.device | str) -> Tensor:
    return torch.from_numpy(values)[None].to(device)


# -- attention ---------------------------------------------------------------------------------------------------------

Attention = Callable[..., tuple[Tensor, Tensor | None]]


def _teach(name: str) -> None:
    attend: Any = ALL_ATTENTION_FUNCTIONS[name]
    if not hasattr(attend, "knows_parts"):
        taught: Any = _knowing_parts(attend)
        taught.knows_parts = True
        ALL_ATTENTION_FUNCTIONS.register(name, taught)


def _knowing_parts(attend: Attention) -> Attention:
    """Let attention run part by part, or find a part's keys, those of its prefix included, next to each other."""

    @functools.wraps(attend)
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        parts: Sequence[Part] | None = None,
        key_places: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if parts is not None:
            return _attend_apart(functools.partial(attend, module, **options), parts, query, key, value), None
        if key_places is not None:
            key, value = (states.index_select(2, key_places.to(states.device)) for states in (key, value))
        return attend(module, query, key, value, attention_mask, **options)

    return attention


def _attend_apart(attend: Attention, parts: Sequence[Part], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return `[1, T, heads, D]`; states are `[1, heads, T, D]`."""
    lengths = [part.length for part in parts]
    queries, keys, values = (states.split(lengths, dim=2) for states in (query, key, value))
    results = []
    for number, part in enumerate(parts):
        asked, mask, skipped = queries[number], None, 0
        if part.prefix == 0:
            seen, held = keys[number], values[number]
        else:
            seen, held = (_after_prefix(states, part, number) for states in (keys, values))
            if part.length > _MASKED:
                asked, skipped = _after_prefix(queries, part, number), part.prefix
            else:
                mask = torch.ones(1, 1, part.length, seen.shape[2], dtype=torch.bool, device=query.device)
                mask = mask.tril(part.prefix)
        results.append(attend(asked, seen, held, mask)[0][:, skipped:])
    return torch.cat(results, dim=1)


def _after_prefix(states: Sequence[Tensor], part: Part, number: int) -> Tensor:
    return torch.cat([states[part.origin][:, :, : part.prefix], states[number]], dim=2)
