"""Forward-only scoring: log-probability and informativeness of completions under a model.

Which completions run together, and with how little padding, is decided in `layout.py`. The model gets no attention
mask: under causal attention no token sees the padding on its right, and without a mask PyTorch takes its fastest
attention kernel. The language-model head runs on completion positions only, a slice of them at a time (`head.py`).

What this file does not know: pairs, margins, and which of the scores matter.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from sage_dpo.forward.head import Targets, forward_statistics
from sage_dpo.forward.layout import Layout, choose_layout
from sage_dpo.forward.prefix_sharing import Segment, segment_arguments


@dataclass(frozen=True, slots=True)
class TokenizedCompletion:
    """A completion in its context: token ids of both."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


_DUMMY = TokenizedCompletion((0,), (0,))


@dataclass(frozen=True, eq=False)
class CompletionScores:
    """Columns over N completions.

    Attributes:
        logps: `[N]` float64, log-probability summed over completion tokens, nats.
        informativeness: `[N]` float64, sum over completion tokens of 1 - 2 p(y_t) + sum_v p_t(v)^2; `None` if it was
            not asked for.
        lengths: `[N]` int64, completion tokens.
        tokens: real tokens (prompt and completion) of the distinct completions, which are run once. Not what the model
            computed: padding is not in it, and a prompt that is run once for several completions counts for each.
    """

    logps: NDArray[np.float64]
    informativeness: NDArray[np.float64] | None
    lengths: NDArray[np.int64]
    tokens: int


def score_completions(
    model: nn.Module,
    completions: Sequence[TokenizedCompletion],
    *,
    token_budget: int,
    device: torch.device | str = "cpu",
    with_informativeness: bool = True,
    synchronize_count: Callable[[int], int] | None = None,
    inference_mode: bool = True,
    progress: str | None = None,
) -> CompletionScores:
    """Score completions by forward passes over batches; equal completions of equal prompts are run once.

    Args:
        model: causal language model; put in evaluation mode meanwhile (dropout off).
        completions: any order, any lengths.
        token_budget: tokens per forward pass, padding included.
        device: where the inputs go.
        with_informativeness: whether it is computed; log-probabilities are the same without.
        synchronize_count: maps this process's number of forward passes to that of the busiest process. Under FSDP and
            ZeRO-3 every process must run the model equally often; the missing passes are run on a dummy token.
        inference_mode: `torch.inference_mode`; off uses `no_grad`, which sharded models need.
        progress: label of a progress bar; `None` shows none.

    Returns:
        Columns in the order of `completions`. NaN log-probabilities are returned, not raised: the caller knows which
        pair they belong to.
    """
    unique = list(dict.fromkeys(completions))
    stats = torch.zeros(len(unique), 1 + with_informativeness, dtype=torch.float64)
    passes = _layout(model, unique, token_budget, device).passes
    count = synchronize_count(len(passes)) if synchronize_count else len(passes)
    idle = _layout(model, [_DUMMY], token_budget, device).passes[0]  # the same calls as for a real pass
    score = functools.partial(_score, model, device=device, with_informativeness=with_informativeness)
    guard = torch.inference_mode() if inference_mode else torch.no_grad()
    with guard, evaluation_mode(model), tqdm(total=count, desc=progress, disable=progress is None) as bar:
        for members, segments in passes:
            stats[torch.from_numpy(members)] = score([unique[i] for i in members], segments).cpu()
            bar.update()
        for _ in range(count - len(passes)):
            score([_DUMMY], idle.segments)
            bar.update()
    position = {completion: row for row, completion in enumerate(unique)}
    columns = stats[[position[c] for c in completions]].numpy() if unique else stats.numpy()
    return CompletionScores(
        logps=columns[:, 0].copy(),
        informativeness=columns[:, 1].copy() if with_informativeness else None,
        lengths=np.array([len(c.completion_ids) for c in completions], dtype=np.int64),
        tokens=sum(len(completion) for completion in unique),
    )


def _layout(
    model: nn.Module, completions: Sequence[TokenizedCompletion], token_budget: int, device: torch.device | str
) -> Layout:
    lengths = np.array([len(c) for c in completions], dtype=np.int64)
    prompts = [c.prompt_ids for c in completions]
    return choose_layout(model, prompts, lengths, device=device, token_budget=token_budget)


def _score(
    model: nn.Module,
    completions: Sequence[TokenizedCompletion],
    segments: list[Segment] | None,
    *,
    device: torch.device | str,
    with_informativeness: bool,
) -> Tensor:
    """Return `[B, 1 or 2]`: log-probability and informativeness of each completion, summed over its tokens.

    Args:
        completions, segments: of one forward pass (`layout.ForwardPass`).
    """
    lengths = np.array([len(c) for c in completions])
    arguments = {}
    if segments is None:
        rows, ends = np.arange(len(completions)), lengths
        input_ids = np.zeros((len(completions), lengths.max()), dtype=np.int64)
        for row, completion in zip(input_ids, completions, strict=True):
            row[: len(completion)] = completion.prompt_ids + completion.completion_ids
    else:
        rows, ends = np.zeros(len(completions), dtype=np.int64), np.cumsum([s.length for s in segments])
        pieces = [(c.prompt_ids + c.completion_ids)[s.prefix :] for c, s in zip(completions, segments, strict=True)]
        input_ids = np.concatenate([np.array(piece, dtype=np.int64) for piece in pieces])[None]
        arguments = segment_arguments(model, segments, device)
    ids = torch.from_numpy(input_ids).to(device)
    counts = [len(c.completion_ids) for c in completions]
    owners = np.repeat(np.arange(len(completions)), counts)
    positions = np.concatenate([np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)])
    places = torch.from_numpy(np.stack([rows[owners], positions, owners])).to(device)
    targets = Targets(places[0], places[1], ids[places[0], places[1]], with_informativeness)
    stats = forward_statistics(model, ids, targets, **arguments).double()
    return stats.new_zeros(len(completions), stats.shape[1]).index_add_(0, places[2], stats)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in evaluation mode, and back as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def as_completions(columns: dict[str, list[Any]]) -> list[TokenizedCompletion]:
    """Return the 2 N completions of N pairs given as columns: all chosen, then all rejected."""
    prompts = [tuple(ids) for ids in columns["prompt_ids"]]
    return [
        TokenizedCompletion(prompt, tuple(ids))
        for side in ("chosen_ids", "rejected_ids")
        for prompt, ids in zip(prompts, columns[side], strict=True)
    ]
