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
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sage_dpo.rollouts.engine import SamplingParams


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
        `[B]` token ids; never an excluded one. Rows with NaN scores give an arbitrary id (the caller checks).
    """
    probabilities = scores.float().softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    # The last entry misses 1 by rounding: scale u to it, so that the search always ends inside the row.
    target = uniforms.to(cumulative) * cumulative[:, -1]
    tokens = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(1)
    tokens = tokens.clamp(max=scores.shape[-1] - 1)
    # A parallel cumsum may be non-monotonic by one rounding step; never return an excluded token for it.
    is_possible = probabilities.gather(1, tokens[:, None]).squeeze(1) > 0
    return torch.where(is_possible, tokens, probabilities.argmax(dim=-1))


class InverseCDFProcessor(LogitsProcessor):
    """Turns scores into one-hot scores of the sampled token, so that `generate(do_sample=False)` picks it.

    Args:
        uniforms: `[B, steps]`, one number a row and step.
    """

    def __init__(self, uniforms: Tensor) -> None:
        self._columns = uniforms.T.contiguous()
        self._step = 0
        self.is_finite = torch.ones((), dtype=torch.bool, device=uniforms.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # Kept on the device and read once at the end: reading it here would stall the accelerator at every step.
        self.is_finite &= ~scores.isnan().any()
        tokens = inverse_cdf(scores, self._columns[self._step])
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


class NaNCheck(LogitsProcessor):
    """Remembers whether any score was NaN; for greedy decoding, where nothing else looks at the scores."""

    def __init__(self, device: torch.device) -> None:
        self.is_finite = torch.ones((), dtype=torch.bool, device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.is_finite &= ~scores.isnan().any()
        return scores


def build_processors(settings: SamplingParams, uniforms: Tensor) -> LogitsProcessorList:
    """Return transformers' own warpers in their usual order, then the sampler; greedy needs only the NaN check."""
    if settings.is_greedy:
        return LogitsProcessorList([NaNCheck(uniforms.device)])
    processors = LogitsProcessorList()
    if settings.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1.0:
        processors.append(TopPLogitsWarper(settings.top_p))
    processors.append(InverseCDFProcessor(uniforms))
    return processors


class RunningRows(StoppingCriteria):
    """Ends `generate` when at most `floor` rows still run, and each row at its own token limit.

    Args:
        eos_ids: end-of-sequence ids.
        limits: tokens each row may still generate.
        floor: 0 runs until every row has finished.
    """

    def __init__(self, eos_ids: Tensor, limits: Sequence[int], floor: int) -> None:
        self._eos_ids = eos_ids
        self._limits = torch.tensor(limits, device=eos_ids.device)
        self._is_done = torch.zeros(len(limits), dtype=torch.bool, device=eos_ids.device)
        self._floor = floor
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor | None, **_: object) -> Tensor:
        self._step += 1
        self._is_done |= torch.isin(input_ids[:, -1], self._eos_ids) | (self._limits <= self._step)
        if self._floor and int((~self._is_done).sum()) <= self._floor:
            return torch.ones_like(self._is_done)
        return self._is_done
