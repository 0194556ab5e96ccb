"""A FlashAttention for CPUs: the signatures transformers calls, a plain loop over sequences behind them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash_utils
from torch import Tensor, nn


class FlashAttention:
    """Stands in for the kernels that transformers imports; everything above them is transformers' own.

    Attributes:
        bounds, key_bounds: `cu_seqlens_q` and `cu_seqlens_k` of every call.
    """

    def __init__(self) -> None:
        self.bounds: list[list[int]] = []
        self.key_bounds: list[list[int]] = []

    def varlen(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        s_aux: Tensor | None = None,
    ) -> Tensor:
        assert causal
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        bounds, key_bounds = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
        assert len(bounds) == len(key_bounds)
        assert (bounds[-1], key_bounds[-1]) == (len(q), len(k))
        assert int(cu_seqlens_q.diff().max()) == max_seqlen_q
        assert int(cu_seqlens_k.diff().max()) == max_seqlen_k
        self.bounds.append(bounds)
        self.key_bounds.append(key_bounds)
        parts = []
        for asked, seen in zip(itertools.pairwise(bounds), itertools.pairwise(key_bounds), strict=True):
            here = (x[slice(*bound)].transpose(0, 1) for x, bound in ((q, asked), (k, seen), (v, seen)))
            parts.append(attend(*here, scale=softmax_scale, window=window_size[0], softcap=softcap, sinks=s_aux))
        return torch.cat([part.transpose(0, 1) for part in parts])

    def fixed(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        raise AssertionError("the kernel for rows of one length was called: the sequences were not told apart")

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Answer transformers' search for a FlashAttention package with the functions above."""
        functions = (self.fixed, self.varlen, None, None, None)
        monkeypatch.setattr(flash_utils, "_lazy_imports", lambda *_, **__: functions)
        for name in (
            "_loaded_implementation",
            "_flash_fn",
            "_flash_varlen_fn",
            "_flash_with_kvcache_fn",
            "_pad_fn",
            "_unpad_fn",
            "_process_flash_kwargs_fn",
            "_process_with_kvcache_kwargs_fn",
        ):
            monkeypatch.setattr(flash_utils, name, None)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, window: int, softcap: float, sinks: Tensor | None
) -> Tensor:
    """Causal attention of one sequence, `[heads, T, D]`, by definition.

    Args:
        q, k, v: with fewer heads of keys and values, each serves several of the queries. If there are more keys, the
            queries are those of the last ones (FlashAttention 2.1 and later).
        scale: of the scores; `None` is 1 / sqrt(D).
        window: tokens seen before the own one; negative is all.
        softcap: scores are capped to this by tanh; 0 is not at all.
        sinks: `[heads]` scores of a token that is nothing.
    """
    k, v = (part.repeat_interleave(len(q) // len(part), dim=0) for part in (k, v))
    scores = q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    age = torch.arange(k.shape[1] - q.shape[1], k.shape[1])[:, None] - torch.arange(k.shape[1])
    is_seen = (age >= 0) & ((age <= window) | (window < 0))
    scores = scores.masked_fill(~is_seen, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(-1, q.shape[1], 1)], dim=-1)
    return scores.softmax(-1)[..., : k.shape[1]] @ v


def uses_flash_attention(model: nn.Module) -> nn.Module:
    """Tell a model to use FlashAttention, without transformers' check that there is one."""
    model.config._attn_implementation = "flash_attention_2"
    return model
