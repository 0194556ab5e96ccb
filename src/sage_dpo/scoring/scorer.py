"""Forward-only scoring: log-probability and informativeness of completions under a model.

Sequences run end to end without padding where the attention kernel allows it (`packing.py`). Elsewhere they are padded
on the right and the model gets no attention mask: under causal attention no token sees the padding behind it, and
without a mask PyTorch takes its fastest attention kernel. The language-model head runs on completion positions only, a
slice of them at a time (`head.py`).

What this file does not know: pairs, margins, and which of the scores matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from sage_dpo.scoring.batching import packed_batches, token_budget_batches
from sage_dpo.scoring.head import Targets, forward_statistics
from sage_dpo.scoring.packing import packing_arguments, supports_packing


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
        informativeness: `[N]` float64, sum over completion tokens of 1 - 2 p(y_t) + sum_v p_t(v)^2.
        lengths: `[N]` int64, completion tokens.
        tokens: real tokens (prompt and completion) the model was run on; duplicates are run once.
    """

    logps: NDArray[np.float64]
    informativeness: NDArray[np.float64]
    lengths: NDArray[np.int64]
    tokens: int


def score_completions(
    model: nn.Module,
    completions: Sequence[TokenizedCompletion],
    *,
    token_budget: int,
    device: torch.device | str = "cpu",
    synchronize_count: Callable[[int], int] | None = None,
    inference_mode: bool = True,
    progress: str | None = None,
) -> CompletionScores:
    """Score completions with one forward pass each; equal completions of equal prompts are run once.

    Args:
        model: causal language model; put in evaluation mode meanwhile (dropout off).
        completions: any order, any lengths.
        token_budget: tokens per forward pass, padding included.
        device: where the inputs go.
        synchronize_count: maps this process's number of forward passes to that of the busiest process. Under FSDP and
            ZeRO-3 every process must run the model equally often; the missing passes are run on a dummy token.
        inference_mode: `torch.inference_mode`; off uses `no_grad`, which sharded models need.
        progress: label of a progress bar; `None` shows none.

    Returns:
        Columns in the order of `completions`. NaN log-probabilities are returned, not raised: the caller knows which
        pair they belong to.
    """
    unique = list(dict.fromkeys(completions))
    lengths = np.array([len(c) for c in unique], dtype=np.int64)
    stats = torch.zeros(len(unique), 2, dtype=torch.float64)
    group, run = (packed_batches, _score_packed) if supports_packing(model) else (token_budget_batches, _score_padded)
    batches = group(lengths, token_budget=token_budget) if unique else []
    passes = synchronize_count(len(batches)) if synchronize_count else len(batches)
    guard = torch.inference_mode() if inference_mode else torch.no_grad()
    with guard, evaluation_mode(model), tqdm(total=passes, desc=progress, disable=progress is None) as bar:
        for batch in batches:
            stats[torch.from_numpy(batch)] = run(model, [unique[i] for i in batch], device).cpu()
            bar.update()
        for _ in range(passes - len(batches)):
            run(model, [_DUMMY], device)  # the same calls as for a real batch
            bar.update()
    position = {completion: row for row, completion in enumerate(unique)}
    columns = stats[[position[c] for c in completions]].numpy() if unique else stats.numpy()
    return CompletionScores(
        logps=columns[:, 0].copy(),
        informativeness=columns[:, 1].copy(),
        lengths=np.array([len(c.completion_ids) for c in completions], dtype=np.int64),
        tokens=int(lengths.sum()),
    )


def _score_padded(model: nn.Module, batch: Sequence[TokenizedCompletion], device: torch.device | str) -> Tensor:
    """Return `[B, 2]`: summed log-probability and informativeness of each completion, a row each."""
    input_ids = np.zeros((len(batch), max(len(c) for c in batch)), dtype=np.int64)
    for target, completion in zip(input_ids, batch, strict=True):
        target[: len(completion)] = completion.prompt_ids + completion.completion_ids
    row = np.arange(len(batch))
    return _score_rows(model, input_ids, batch, rows=row, starts=np.zeros_like(row), device=device)


def _score_packed(model: nn.Module, batch: Sequence[TokenizedCompletion], device: torch.device | str) -> Tensor:
    """Return the same as `_score_padded`; the completions run in one row."""
    lengths = np.array([len(c) for c in batch])
    input_ids = np.concatenate([np.array(c.prompt_ids + c.completion_ids) for c in batch])[None]
    starts, rows = np.cumsum(lengths) - lengths, np.zeros(len(batch), dtype=np.int64)
    arguments = packing_arguments(lengths, device)
    return _score_rows(model, input_ids, batch, rows=rows, starts=starts, device=device, **arguments)


def _score_rows(
    model: nn.Module,
    input_ids: NDArray[np.int64],
    batch: Sequence[TokenizedCompletion],
    *,
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    device: torch.device | str,
    **arguments: Any,
) -> Tensor:
    """Score the completions found in `input_ids`, `[R, L]`, each in its row from its start on."""
    ids = torch.from_numpy(input_ids).to(device)
    counts = [len(c.completion_ids) for c in batch]
    owners = np.repeat(np.arange(len(batch)), counts)
    begins = starts + [len(c.prompt_ids) for c in batch]
    positions = np.concatenate([np.arange(begin, begin + count) for begin, count in zip(begins, counts, strict=True)])
    places = torch.from_numpy(np.stack([rows[owners], positions, owners])).to(device)
    targets = Targets(places[0], places[1], ids[places[0], places[1]])
    stats = torch.zeros(len(batch), 2, dtype=torch.float64, device=ids.device)
    return stats.index_add_(0, places[2], forward_statistics(model, ids, targets, **arguments).double())


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
