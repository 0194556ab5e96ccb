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


def supports_packing(model: nn.Module) -> bool:
    """Whether `model` keeps packed sequences apart.

    True for transformers' models that hand their keyword arguments to a FlashAttention or FlexAttention kernel, also
    wrapped by accelerate, DistributedDataParallel or PEFT. False for models with a recurrent state, which would run on
    from one sequence into the next, and for adapters that put virtual tokens in front.
    """
    inner: Any = extract_model_from_parallel(model)
    if isinstance(inner, PeftModel):
        if inner.active_peft_config.is_prompt_learning:
            return False
        inner = inner.get_base_model()
    config = getattr(inner, "config", None)
    if config is None or not getattr(inner, "_supports_attention_backend", False) or inner._is_stateful:
        return False
    return keeps_sequences_apart(config.get_text_config()._attn_implementation)


def keeps_sequences_apart(attention: str | None) -> bool:
    """Whether a kernel, named as in transformers' `attn_implementation`, is FlashAttention or FlexAttention."""
    if attention is None:
        return False
    return attention == "flex_attention" or is_flash_attention_requested(requested_attention_implementation=attention)


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
