"""The language-model head in slices: statistics of next tokens without the `[tokens, vocabulary]` logits.

While a model is scored, its head keeps two numbers a token instead of V logits. It is still called by the model's
own forward pass, so that the hooks of FSDP and ZeRO-3 gather its weights, and adapters on it count. Some models do more
with logits than the head does (Gemma 2 caps them, Cohere and Granite scale them): then what the model returns is not
what the head returned, which is noticed, and the whole logits are taken instead.

Where Triton runs, TRL's kernel folds a tile of logits into the statistics in one pass over memory. Elsewhere a slice of
them is made and reduced by PyTorch, which on a CPU is as fast, and with small vocabularies faster.

What this file does not know: sequences, batches, pairs.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers.utils import is_triton_available
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from sage_dpo.core.utility import token_informativeness

_SLICE = {"cpu": 2**23, "cuda": 2**26}
"""Logits computed at once, in elements: on a CPU 32 MiB of float32, elsewhere 256 MiB. Smaller slices read the head's
weights too often: with 32,000 entries and a width of 128, 2^19 took 1.8 times as long as 2^23 on one core."""

_TILE = 32768
"""Vocabulary entries that TRL's kernel projects at once, for 4,096 tokens: what TRL's own loss takes."""

_NOT_SLICED: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Heads whose model was seen to do more with logits; every process of a sharded model sees it at its first pass."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The T tokens whose statistics are wanted.

    Attributes:
        rows, positions: `[T]` int64, where each stands in the model's `[B, L]` input; positions >= 1.
        ids: `[T]` int64 token ids.
        with_informativeness: whether that is wanted too; without it there is one column of statistics less, the other
            is the same.
    """

    rows: Tensor
    positions: Tensor
    ids: Tensor
    with_informativeness: bool = True

    def to(self, device: torch.device) -> Targets:
        return replace(self, rows=self.rows.to(device), positions=self.positions.to(device), ids=self.ids.to(device))


def forward_statistics(model: nn.Module, input_ids: Tensor, targets: Targets, **arguments: Any) -> Tensor:
    """Run the model once and return `[T, 1 or 2]` float32: log p(y_t), nats, and the informativeness of each target.

    Args:
        model: causal language model, also wrapped by accelerate, DistributedDataParallel or PEFT.
        input_ids: `[B, L]`, padded on the right; no attention mask is passed.
        targets: which tokens.
        arguments: more for the model's forward pass, see `prefix_sharing.segment_arguments`.
    """
    head = _output_head(model)
    if head is not None and head not in _NOT_SLICED:
        with _replaced_forward(head, targets, input_ids.shape[1]) as sliced:
            result = model(input_ids=input_ids, use_cache=False, **arguments).logits
        if sliced.is_untouched(result):
            return sliced.statistics.to(input_ids.device)
        _NOT_SLICED.add(head)
    logits = model(input_ids=input_ids, use_cache=False, **arguments).logits
    return _in_slices(lambda states: states, logits[:, -input_ids.shape[1] :], targets)


def token_statistics(logits: Tensor, ids: Tensor, *, with_informativeness: bool = True) -> Tensor:
    """Return log p(y_t) and the informativeness of each token.

    Args:
        logits: `[T, V]`, any floating dtype; computed in float32. Overwritten, if they are float32.
        ids: `[T]` token ids y_t.
        with_informativeness: off leaves the second column out, and the sum over squared probabilities.

    Returns:
        `[T, 1 or 2]` float32.
    """
    logits = logits.float()
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    target = logits.gather(1, ids[:, None])[:, 0]
    weights = logits.exp_()
    total = weights.sum(dim=-1)
    logps = target - total.log()
    if not with_informativeness:
        return logps[:, None]
    sum_sq_probs = (torch.linalg.vector_norm(weights, dim=-1) / total) ** 2
    return torch.stack([logps, token_informativeness(logps, sum_sq_probs)], dim=1)


class _SlicedHead:
    """Stands in for a head's `forward`: takes hidden states `[B, L, H]`, keeps the targets' statistics."""

    def __init__(self, original: Callable[..., Tensor], targets: Targets, length: int) -> None:
        self._original, self._targets, self._length = original, targets, length
        self.statistics: Tensor
        self.result: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        hidden = hidden[:, -self._length :]  # prompt-learning adapters put virtual tokens in front
        head: Any = getattr(self._original, "__self__", None)
        is_linear = getattr(self._original, "__func__", None) is nn.Linear.forward  # no adapter, no hook
        if is_linear and _is_plain(head.weight) and _has_kernel(hidden.device):
            self.statistics = _in_tiles(head, hidden, self._targets)
        else:
            self.statistics = _in_slices(self._original, hidden, self._targets)
        self.result = self.statistics.new_ones(*hidden.shape[:2], 1)  # ones, so that a change in place shows too
        return self.result

    def is_untouched(self, logits: Tensor) -> bool:
        """Whether the model returned what the head did, without changing it, in place or otherwise."""
        return logits is self.result and bool(torch.equal(logits, torch.ones_like(logits)))


@contextlib.contextmanager
def _replaced_forward(head: nn.Module, targets: Targets, length: int) -> Iterator[_SlicedHead]:
    own = head.__dict__.get("forward")  # accelerate and quantizers put one on the instance
    sliced = _SlicedHead(head.forward, targets, length)
    head.forward = sliced
    try:
        yield sliced
    finally:
        del head.forward
        if own is not None:
            head.forward = own


def _in_slices(head: Callable[[Tensor], Tensor], states: Tensor, targets: Targets) -> Tensor:
    """Return `[T, 1 or 2]`: `head` applied to the states that predict the targets, a slice at a time."""
    targets = targets.to(states.device)  # a model spread over several GPUs ends on another than it begins
    columns = 1 + targets.with_informativeness
    statistics = torch.empty(len(targets.ids), columns, dtype=torch.float32, device=states.device)
    budget = _SLICE["cpu" if states.device.type == "cpu" else "cuda"]
    start, width = 0, 1  # the first token tells the size of the vocabulary
    while start < len(targets.ids):
        here = slice(start, start + width)
        logits = head(states[targets.rows[here], targets.positions[here] - 1])  # the state at t predicts token t + 1
        statistics[here] = token_statistics(
            logits, targets.ids[here], with_informativeness=targets.with_informativeness
        )
        start, width = start + width, max(1, budget // logits.shape[-1])
    return statistics


def _in_tiles(head: nn.Linear, states: Tensor, targets: Targets) -> Tensor:
    """Return the same as `_in_slices`, by TRL's kernel."""
    targets = targets.to(states.device)
    before = states[targets.rows, targets.positions - 1]
    outputs = ("log_sum_sq_probs",) if targets.with_informativeness else ()
    with torch.cuda.device_of(before):  # Triton launches on the current device
        logps, _, log_sum_sq_probs, _, _ = ChunkedLogProbFunction.apply(
            before, head.weight, head.bias, targets.ids, 1.0, _TILE, None, 1.0, outputs
        )
    if not targets.with_informativeness:
        return logps[:, None]
    return torch.stack([logps, token_informativeness(logps, log_sum_sq_probs.exp())], dim=1)


def _is_plain(weight: Tensor) -> bool:
    """Whether it is no tensor of a quantizer, and not sharded."""
    return type(weight) in (nn.Parameter, Tensor)


def _has_kernel(device: torch.device) -> bool:
    return device.type == "cuda" and is_triton_available()


def _output_head(model: nn.Module) -> nn.Module | None:
    inner: Any = extract_model_from_parallel(model, keep_torch_compile=False)
    getter = getattr(inner, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    return head if isinstance(head, nn.Module) else None
