"""Candidate pairs -> the columns a selector asks for. The one place where they are assembled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sage_dpo.core.margins import confidence_margin
from sage_dpo.core.strata import relative_success_rate
from sage_dpo.errors import DataError, NumericalError
from sage_dpo.forward import CompletionScores, TokenizedCompletion, as_completions
from sage_dpo.selection.models import Models
from sage_dpo.selection.reference import ReferenceCache
from sage_dpo.selection.score_memory import ScoreMemory
from sage_dpo.selectors import CandidateScores

Columns = dict[str, list[Any]]
"""Pairs by column: `prompt_ids`, `chosen_ids`, `rejected_ids`, and what else the data set has (`id`, `problem_id`)."""


@dataclass
class TokenCounts:
    """Real tokens (prompt and completion, no padding) over all processes since the start of training.

    What the sequences hold: a prompt counts for each of its completions, also where it is run once for all of them.

    Attributes:
        scored: run through the policy forward-only, to choose.
        reference: run through the reference forward-only.
        trained: run forward and backward.
        candidate_pairs, trained_pairs: pairs drawn, pairs trained on.
    """

    scored: int = 0
    reference: int = 0
    trained: int = 0
    candidate_pairs: int = 0
    trained_pairs: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class PairScorer:
    """Scores pairs with the policy as it is now, and looks their reference log-probabilities up.

    Args:
        models: the policy and its reference.
        max_age: optimizer steps for which a completion's score is used again; 0 scores anew at every step.

    Attributes:
        counts: tokens and pairs so far.
        memory: young scores.
    """

    def __init__(self, models: Models, *, max_age: int = 0) -> None:
        self.counts = TokenCounts()
        self._reference = ReferenceCache(models.reference_fingerprint)
        self.memory = ScoreMemory(max_age)
        self._models = models

    @property
    def reference(self) -> ReferenceCache:
        """Log-probabilities under the reference as it is now, each completion once; it forgets those of before a move.

        To be asked for on all processes.
        """
        if self._reference.fingerprint != (fingerprint := self._models.reference_fingerprint):
            self._reference = ReferenceCache(fingerprint)
        return self._reference

    @property
    def policy_is_reference(self) -> bool:
        """Whether the policy, as it is now, is the reference: never after its first step."""
        return self._models.starts_as_reference and self.counts.trained_pairs == 0

    def score(
        self,
        pairs: Columns,
        *,
        step: int = 0,
        with_informativeness: bool = True,
        with_reference: bool = False,
        label: str | None = None,
    ) -> tuple[CandidateScores, float]:
        """Return the columns of pairs, and the share of completions whose score was used again.

        Args:
            pairs: by column.
            step: optimizer steps done; dates what is remembered and names it in errors.
            with_informativeness: compute J's part of each completion.
            with_reference: add the reference log-probabilities.
            label: names a progress bar.

        Raises:
            NumericalError: a log-probability is NaN or infinite; names the pairs.
        """
        completions = as_completions(pairs)

        def compute(missing: Sequence[TokenizedCompletion]) -> CompletionScores:
            return self._models.score_policy(missing, with_informativeness=with_informativeness, label=label)

        scores, reused = self.memory.scores(completions, step=step, compute=compute)
        self.counts.scored += scores.tokens
        check_finite(scores.logps, pairs, "policy", step)
        reference = self.reference_logps(completions) if with_reference else None
        columns = CandidateScores.of_completions(
            scores.logps, scores.lengths, scores.informativeness, ref_logps=reference
        )
        return columns, reused

    def reference_logps(self, completions: Sequence[TokenizedCompletion]) -> NDArray[np.float64]:
        """Return `[N]` log-probabilities under the reference, nats; those not known yet are computed.

        Raises:
            DataError: the reference was not kept and a completion was not precomputed.
        """
        return self.reference.get(completions, self._compute_reference)

    def pair_reference(self, pairs: Columns, *, ld_alpha: float | None = None) -> NDArray[np.float64]:
        """Return the `[2 N]` reference log-probabilities that pairs are trained with, nats: all chosen, all rejected.

        With `ld_alpha` (LD-DPO), tokens beyond the length of the pair's shorter completion weigh so much: its sum is
        `ld_alpha x` that of the whole completion `+ (1 - ld_alpha) x` that of its beginning.

        Raises:
            DataError: as for `reference_logps`.
        """
        whole = self.reference_logps(as_completions(pairs))
        if ld_alpha is None:
            return whole
        sides = list(zip(pairs["chosen_ids"], pairs["rejected_ids"], strict=True))
        shared = [min(len(chosen), len(rejected)) for chosen, rejected in sides]
        beginnings = {
            "prompt_ids": pairs["prompt_ids"],
            "chosen_ids": [chosen[:length] for (chosen, _), length in zip(sides, shared, strict=True)],
            "rejected_ids": [rejected[:length] for (_, rejected), length in zip(sides, shared, strict=True)],
        }
        return ld_alpha * whole + (1 - ld_alpha) * self.reference_logps(as_completions(beginnings))

    def survey(self, pairs: Columns, *, step: int = 0, label: str) -> CandidateScores:
        """Return the columns of many pairs, without informativeness and not to be used again.

        Where the policy still is its reference, the log-probabilities are kept as the reference's.

        Args:
            pairs: by column.
            step: optimizer steps done, for errors.
            label: names the progress bar.

        Raises:
            NumericalError: as for `score`.
        """
        completions = as_completions(pairs)
        scores = self._models.score_policy(completions, with_informativeness=False, label=label)
        self.counts.scored += scores.tokens
        check_finite(scores.logps, pairs, "policy", step)
        if self.policy_is_reference:
            self.reference.add(completions, scores.logps)
        return CandidateScores.of_completions(scores.logps, scores.lengths, None)

    def _compute_reference(self, completions: Sequence[TokenizedCompletion]) -> NDArray[np.float64]:
        if self._models.keeps_reference:
            scores = self._models.score_reference(completions)
        elif self.policy_is_reference:
            scores = self._models.score_policy(completions, with_informativeness=False)
        else:
            raise DataError(
                f"{len(completions)} completions have no precomputed reference log-probability and the reference "
                "model was not kept; set precompute_ref_log_probs to False"
            )
        self.counts.reference += scores.tokens
        return scores.logps


def estimate_success_rates(scores: CandidateScores, *, temperature: float) -> NDArray[np.float64]:
    """Return `[N]` ranks of a whole pool's pairs by confidence margin, a stand-in for success rates.

    Args:
        scores: of the pool, N pairs.
        temperature: tau of the margin, which does not change its rank.
    """
    columns = ("chosen_logps", "rejected_logps", "chosen_lengths", "rejected_lengths")
    values = (torch.from_numpy(scores.column(name, needed_for="the margin")) for name in columns)
    return relative_success_rate(confidence_margin(*values, temperature=temperature).numpy())


def check_finite(logps: NDArray[np.float64], pairs: Columns, whose: str, step: int) -> None:
    """Raise `NumericalError` that names pairs with a log-probability that is NaN or infinite.

    Args:
        logps: `[2 N]`, all chosen, then all rejected.
    """
    bad = np.flatnonzero(~np.isfinite(logps)) % len(pairs["prompt_ids"])
    if len(bad):
        ids = [pair_id(pairs, i, i) for i in bad[:5].tolist()]
        raise NumericalError(
            f"{len(bad)} {whose} log-probabilities are not finite at step {step} (pairs {ids}); "
            "lower the learning rate, or use bf16 or float32 in place of fp16"
        )


def pair_id(pairs: Columns, row: int, index: int) -> str:
    """Return the pair's own id, or its row number `index` in the data set."""
    return str(pairs["id"][row]) if "id" in pairs else str(index)
