"""Forward-only scoring: log-probability and informativeness of completions under a model.

Prompts that several completions share are run once where that saves enough (`prefix_sharing.py`). Sequences run end to
end without padding where the attention kernel allows it (`packing.py`). Elsewhere they are padded on the right and the
model gets no attention mask: under causal attention no token sees the padding behind it, and without a mask PyTorch
takes its fastest attention kernel. The language-model head runs on completion positions only, a slice of them at a time
(`head.py`).

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

from sage_dpo.forward.batching import packed_batches, token_budget_batches
from sage_dpo.forward.head import Targets, forward_statistics
from sage_dpo.forward.packing import packing_arguments, supports_packing
from sage_dpo.forward.prefix_sharing import (
    Part,
    can_share_prompts,
    group_by_prompt,
    parts_of,
    pays,
    sharing_arguments,
)


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
        tokens: real tokens (prompt and completion) of the distinct completions, which are run once. Not what the model
            computed: padding is not in it, and a prompt that is run once for several completions counts for each.
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
    """Score completions by forward passes over batches; equal completions of equal prompts are run once.

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
    stats = torch.zeros(len(unique), 2, dtype=torch.float64)
    batches = _plan(model, unique, token_budget, device)
    passes = synchronize_count(len(batches)) if synchronize_count else len(batches)
    guard = torch.inference_mode() if inference_mode else torch.no_grad()
    with guard, evaluation_mode(model), tqdm(total=passes, desc=progress, disable=progress is None) as bar:
        for batch in batches:
            rows = [unique[i] for i in batch.members]
            stats[torch.from_numpy(batch.members)] = _score(model, rows, batch.parts, device).cpu()
            bar.update()
        for _ in range(passes - len(batches)):
            _score(model, [_DUMMY], None, device)  # the same calls as for a real batch
            bar.update()
    position = {completion: row for row, completion in enumerate(unique)}
    columns = stats[[position[c] for c in completions]].numpy() if unique else stats.numpy()
    return CompletionScores(
        logps=columns[:, 0].copy(),
        informativeness=columns[:, 1].copy(),
        lengths=np.array([len(c.completion_ids) for c in completions], dtype=np.int64),
        tokens=sum(len(completion) for completion in unique),
    )


@dataclass(frozen=True, eq=False)
class _Batch:
    """What one forward pass runs.

    Attributes:
        members: `[B]` indices of completions.
        parts: of the row in which prompts are shared, one for each member; `None` runs each with its own prompt.
    """

    members: NDArray[np.int64]
    parts: list[Part] | None = None


def _plan(
    model: nn.Module, completions: Sequence[TokenizedCompletion], token_budget: int, device: torch.device | str
) -> list[_Batch]:
    """Group completions into batches."""
    lengths = np.array([len(c) for c in completions], dtype=np.int64)
    if can_share_prompts(model):
        prompts = [completion.prompt_ids for completion in completions]
        prompt_lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)

        def parts(members: NDArray[np.int64]) -> list[Part]:
            return parts_of([prompts[i] for i in members], lengths[members], prompt_lengths=prompt_lengths[members])

        if pays(model, parts(np.arange(len(completions))), device):
            groups = group_by_prompt(prompts, lengths, prompt_lengths=prompt_lengths, token_budget=token_budget)
            tokens = np.array([sum(part.length for part in parts(group)) for group in groups], dtype=np.int64)
            batches = packed_batches(tokens, token_budget=token_budget)
            rows = [np.concatenate([groups[i] for i in batch]) for batch in batches]
            return [_Batch(members, parts(members)) for members in rows]
    group = packed_batches if supports_packing(model) else token_budget_batches
    return [_Batch(members) for members in group(lengths, token_budget=token_budget)]


def _score(
    model: nn.Module, batch: Sequence[TokenizedCompletion], parts: list[Part] | None, device: torch.device | str
) -> Tensor:
    """Return `[B, 2]`: summed log-probability and informativeness of each completion."""
    if parts is not None:
        return _score_packed(model, batch, [p.prefix for p in parts], device, sharing_arguments(model, parts, device))
    if supports_packing(model):
        arguments = packing_arguments(np.array([len(c) for c in batch]), device)
        return _score_packed(model, batch, [0] * len(batch), device, arguments)
    return _score_padded(model, batch, device)


def _score_padded(model: nn.Module, batch: Sequence[TokenizedCompletion], device: torch.device | str) -> Tensor:
    """Score the completions in a row each."""
    input_ids = np.zeros((len(batch), max(len(c) for c in batch)), dtype=np.int64)
    for target, completion in zip(input_ids, batch, strict=True):
        target[: len(completion)] = completion.prompt_ids + completion.completion_ids
    begins = np.array([len(c.prompt_ids) for c in batch])
    return _score_rows(model, input_ids, batch, rows=np.arange(len(batch)), begins=begins, device=device)


def _score_packed(
    model: nn.Module,
    batch: Sequence[TokenizedCompletion],
    prefixes: Sequence[int],
    device: torch.device | str,
    arguments: dict[str, Any],
) -> Tensor:
    """Score the completions in one row that holds, of each sequence, what comes behind its prefix."""
    pieces = [(c.prompt_ids + c.completion_ids)[prefix:] for c, prefix in zip(batch, prefixes, strict=True)]
    input_ids = np.concatenate([np.array(piece, dtype=np.int64) for piece in pieces])[None]
    begins = np.cumsum([len(piece) for piece in pieces]) - [len(c.completion_ids) for c in batch]
    rows = np.zeros(len(batch), dtype=np.int64)
    return _score_rows(model, input_ids, batch, rows=rows, begins=begins, device=device, **arguments)


def _score_rows(
    model: nn.Module,
    input_ids: NDArray[np.int64],
    batch: Sequence[TokenizedCompletion],
    *,
    rows: NDArray[np.int64],
    begins: NDArray[np.int64],
    device: torch.device | str,
    **arguments: Any,
) -> Tensor:
    """Score the completions found in `input_ids`, `[R, L]`, each in its row, its first token at `begins`."""
    ids = torch.from_numpy(input_ids).to(device)
    counts = [len(c.completion_ids) for c in batch]
    owners = np.repeat(np.arange(len(batch)), counts)
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
