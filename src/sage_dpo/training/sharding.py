"""Scoring with several processes: each scores a share, all get all of the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from sage_dpo.scoring import CompletionScores, TokenizedCompletion, score_completions


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
        self._is_sharded = is_sharded
        self._progress = progress and accelerator.is_main_process

    def score(
        self, model: nn.Module, completions: Sequence[TokenizedCompletion], *, label: str | None = None
    ) -> CompletionScores:
        """Return the scores of all completions on every process; every process must pass the same ones.

        Completions are dealt out in order of length, so that every process gets about as many tokens.
        """
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        order = np.argsort([len(c) for c in completions], kind="stable")
        with self._accelerator.autocast():
            mine = score_completions(
                model,
                [completions[i] for i in order[rank::world]],
                token_budget=self._token_budget,
                device=self._accelerator.device,
                synchronize_count=self._largest_count if world > 1 else None,
                inference_mode=not self._is_sharded,
                progress=label if self._progress else None,
            )
        table = np.stack([mine.logps, mine.informativeness, mine.lengths], axis=1)
        merged = np.empty((len(completions), 3))
        for process, share in enumerate(self._gather(table, math.ceil(len(completions) / world))):
            places = order[process::world]
            merged[places] = share[: len(places)]
        tokens = sum(int(share[0, 0]) for share in self._gather(np.array([[mine.tokens]]), 1))
        return CompletionScores(merged[:, 0], merged[:, 1], merged[:, 2].astype(np.int64), tokens)

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
