"""Scoring with several processes: each scores a share, all get all of the scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from sage_dpo.forward import CompletionScores, TokenizedCompletion, group_by_prompt, score_completions


class ShardedScorer:
    """Runs `score_completions` on this process's share and gathers.

    Args:
        accelerator: of the trainer.
        token_budget: padded tokens per forward pass on one device.
        is_sharded: whether the model's weights are spread over processes (FSDP, ZeRO-3).
        progress: allow progress bars.
    """

    def __init__(self, accelerator: Accelerator, *, token_budget: int, is_sharded: bool, progress: bool) -> None:
        self._accelerator = accelerator
        self._token_budget = token_budget
        self.is_sharded = is_sharded
        self._progress = progress and accelerator.is_main_process

    def score(
        self,
        model: nn.Module,
        completions: Sequence[TokenizedCompletion],
        *,
        with_informativeness: bool = True,
        label: str | None = None,
    ) -> CompletionScores:
        """Return the scores of all completions on every process; every process must pass the same ones.

        Those of a prompt stay together where they can, and every process gets about as many tokens.
        """
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        shares = _deal(completions, world)
        with self._accelerator.autocast():
            mine = score_completions(
                model,
                [completions[i] for i in shares[rank]],
                token_budget=self._token_budget,
                device=self._accelerator.device,
                with_informativeness=with_informativeness,
                synchronize_count=self._largest_count if world > 1 else None,
                inference_mode=not self.is_sharded,
                progress=label if self._progress else None,
            )
        columns = [column for column in (mine.logps, mine.informativeness) if column is not None]
        table = np.stack(columns, axis=1)
        merged = np.empty((len(completions), len(columns)))
        gathered = self._gather(table, max(len(places) for places in shares))
        for places, rows in zip(shares, gathered, strict=True):
            merged[places] = rows[: len(places)]
        tokens = sum(int(share[0, 0]) for share in self._gather(np.array([[mine.tokens]]), 1))
        lengths = np.array([len(c.completion_ids) for c in completions], dtype=np.int64)
        return CompletionScores(merged[:, 0], merged[:, 1] if with_informativeness else None, lengths, tokens)

    def _gather(self, table: np.ndarray, rows: int) -> list[np.ndarray]:
        """Return every process's `[<= rows, columns]` table, padded to `rows`: a gather needs equal shapes."""
        world = self._accelerator.num_processes
        if world == 1:
            return [table]
        block = torch.zeros(rows, table.shape[1], dtype=torch.float64, device=self._accelerator.device)
        block[: len(table)] = torch.from_numpy(table)
        gathered: np.ndarray = self._accelerator.gather(block).cpu().numpy()
        return list(gathered.reshape(world, rows, -1))

    def _largest_count(self, count: int) -> int:
        return max(int(share[0, 0]) for share in self._gather(np.array([[count]]), 1))


def _deal(completions: Sequence[TokenizedCompletion], world: int) -> list[NDArray[np.int64]]:
    """Return the indices of the completions that each process scores.

    Completions of a prompt stay together as far as shares of equal size allow. The largest groups go first, each to the
    process that has the fewest tokens.
    """
    lengths = np.array([len(c) for c in completions], dtype=np.int64)
    groups = group_by_prompt([c.prompt_ids for c in completions], lengths, token_budget=lengths.sum() / world)
    tokens = [int(lengths[group].sum()) for group in groups]
    shares: list[list[int]] = [[] for _ in range(world)]
    loads = np.zeros(world, dtype=np.int64)
    for index in np.argsort(-np.array(tokens, dtype=np.int64), kind="stable").tolist():
        process = int(loads.argmin())
        shares[process].extend(groups[index].tolist())
        loads[process] += tokens[index]
    return [np.array(members, dtype=np.int64) for members in shares]
