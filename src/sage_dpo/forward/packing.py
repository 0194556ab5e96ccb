"""Sequences end to end in one row, without padding, for attention kernels that take sequences of any length.

FlashAttention and FlexAttention are told where each sequence begins and keep them apart. Other kernels would need a
mask as large as the square of the row, so models that use them run in length buckets (`batching.py`).

What this file does not know: what the sequences are, and what is computed from the model's outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn
from transformers.utils.generic import is_flash_attention_requested

PACKED_MODELS = frozenset(
    {
        "cohere2",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm4",
        "gpt_oss",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "olmo2",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "starcoder2",
    }
)
"""Model types that were seen to keep packed sequences apart (`tests/unit/forward/test_packing.py`). No flag of
transformers tells: convolutions (LFM2), linear attention (MiniMax), positions counted along the row (Llama 4) or in
three dimensions (Qwen2-VL) let sequences see each other. Every other type runs in length buckets."""


def supports_packing(model: nn.Module) -> bool:
    """Whether `model` keeps packed sequences apart by itself.

    That is one of `PACKED_MODELS` with FlashAttention or FlexAttention.
    FlexAttention with sliding windows is left out: its several masks pass the limit of PyTorch's recompilations, after
    which they are made whole, quadratic in the row.
    """
    config = packable_config(model)
    if config is None:
        return False
    attention = config._attn_implementation
    return keeps_sequences_apart(attention) and not (attention == "flex_attention" and has_windows(config))


def packable_config(model: nn.Module) -> Any | None:
    """Return the configuration of a model of `PACKED_MODELS`, `None` for any other.

    Also of one that accelerate, DistributedDataParallel, `torch.compile` or PEFT wrap, but for adapters that put
    virtual tokens in front, or begin at certain tokens of a row.
    """
    inner: Any = extract_model_from_parallel(model, keep_torch_compile=False)
    if isinstance(inner, PeftModel):
        if inner.active_peft_config.is_prompt_learning or has_invocation_tokens(inner):
            return None
        inner = inner.get_base_model()
    config: Any = getattr(inner, "config", None)
    return config if getattr(config, "model_type", None) in PACKED_MODELS else None


def has_invocation_tokens(model: PeftModel) -> bool:
    """Whether the adapter is an activated LoRA, which begins behind certain tokens, once in a row."""
    return getattr(model.active_peft_config, "alora_invocation_tokens", None) is not None


def has_windows(config: Any) -> bool:
    """Whether some layers attend to a sliding window only."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return getattr(config, "sliding_window", None) is not None
    return set(kinds) != {"full_attention"}


def keeps_sequences_apart(attention: str | None) -> bool:
    """Whether a kernel, named as in transformers' `attn_implementation`, is FlashAttention or FlexAttention."""
    return attention == "flex_attention" or is_flash(attention)


def is_flash(attention: str | None) -> bool:
    """Whether a kernel, named as in transformers' `attn_implementation`, is FlashAttention."""
    return attention is not None and is_flash_attention_requested(requested_attention_implementation=attention)


def packing_arguments(lengths: NDArray[np.int64], device: torch.device | str) -> dict[str, Any]:
    """Return what a model must be told about the sequences in its one row.

    Args:
        lengths: `[S]` tokens of each sequence, in the order of the row; T is their sum.
        device: of the model's input.

    Returns:
        `position_ids`, `[1, T]`, from 0 in each sequence, and the bounds of the sequences as FlashAttention takes them:
        given, its kernels need not find them in every layer, which would wait for the device each time.
    """
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
    starts = torch.from_numpy(bounds.astype(np.int32)).to(device)
    longest = int(np.max(lengths))
    return {
        "position_ids": torch.from_numpy(positions)[None].to(device),
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": longest,
        "max_length_k": longest,
    }
