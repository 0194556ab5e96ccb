"""Sampling as a pure function of (seed, policy version, problem, sample, position): inverse CDF on counted uniforms.

The token at position t of a completion is `min {v : F_t(v) > u_t}`, F_t the cumulative distribution after
temperature, top-k and top-p, u_t the t-th number of a Philox stream keyed by the completion's identity. Which other
rows share the batch, in which order, and how long the batch is, therefore cannot change a completion, and no global
random state is read or written.

Limit: F_t itself comes from batched kernels, whose rounding depends on the batch's shape. Where u_t falls within that
rounding of a step of F_t the token, and what follows it, can differ. Measured on the gym policy, CPU, batches of 17 to
512: none of 4,096 completions (118,626 tokens) differ in float32, up to 31 of them in bfloat16.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sage_dpo.rollouts.engine import SamplingParams

_SLICE = 2**19
"""Logits that a CPU samples from at once, in elements: 2 MiB of float32, which its cache keeps between the passes."""


def completion_uniforms(seed: int, policy_version: int, problem_id: str, sample: int, count: int) -> np.ndarray:
    """Return the first `count` uniforms in [0, 1) of one completion, float32.

    A longer request begins with the numbers of a shorter one, so `max_new_tokens` does not change earlier tokens.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox), through NumPy.
    """
    problem_key = np.frombuffer(hashlib.sha256(problem_id.encode()).digest(), dtype="<u4").tolist()
    key = np.random.SeedSequence([seed, policy_version, sample, *problem_key])
    return np.random.Generator(np.random.Philox(key)).random(count, dtype=np.float32)


def inverse_cdf(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Return `min {v : F(v) > u}` for each row, F the cumulative softmax of the scores.

    Args:
        scores: `[B, V]` logits, `-inf` for excluded tokens.
        uniforms: `[B]` in [0, 1).
    Returns:
        `[B]` token ids, never an excluded one; -1 for rows that define no distribution, as with NaN scores.
    """
    probabilities = scores.float().softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    # The last entry misses 1 by rounding: scale u to it, so that the search always ends inside the row.
    total = cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, uniforms[:, None].to(cumulative) * total, right=True)
    tokens = tokens.clamp(max=scores.shape[-1] - 1)
    # A parallel cumsum may be non-monotonic by one rounding step; never return an excluded token for it.
    is_possible = probabilities.gather(1, tokens) > 0
    if not bool(is_possible.all()):
        tokens = torch.where(is_possible, tokens, probabilities.argmax(dim=-1, keepdim=True))
    return torch.where(total.isnan(), -1, tokens).squeeze(1)


def most_likely(scores: Tensor) -> Tensor:
    """Return `[B]` the ids of the highest scores of `[B, V]`; -1 for rows with NaN."""
    highest, tokens = scores.max(dim=-1)
    return torch.where(highest.isnan(), -1, tokens)


class TokenSampler:
    """Draws the next token of each row from its logits; greedy takes the most likely one.

    Args:
        settings: temperature and truncation, by transformers' own warpers in their usual order.
    """

    def __init__(self, settings: SamplingParams) -> None:
        self._is_greedy = settings.is_greedy
        self._warpers = LogitsProcessorList()
        if not settings.is_greedy and settings.temperature != 1.0:
            self._warpers.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            self._warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(settings.top_p))

    def __call__(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Return `[B]` token ids, -1 where the logits are NaN.

        Args:
            logits: `[B, V]`.
            uniforms: `[B]` in [0, 1), not used if greedy.
        """
        rows = max(1, _SLICE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
        slices = zip(logits.split(rows), uniforms.split(rows), strict=True)
        return torch.cat([self._draw(part.float(), numbers) for part, numbers in slices])

    def _draw(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        if self._is_greedy:
            return most_likely(scores)
        no_ids: Any = None  # these warpers read scores only
        return inverse_cdf(self._warpers(no_ids, scores), uniforms)
