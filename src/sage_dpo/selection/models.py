"""What the selection step asks of the models: scores of completions. The trainer answers; so can a test, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from sage_dpo.forward import CompletionScores, TokenizedCompletion, score_completions
from sage_dpo.selection.reference import model_fingerprint


class Models(Protocol):
    """The policy as it is now, and its reference.

    With several processes every method must be called on all of them with the same completions, and answers alike.
    """

    @property
    def reference_fingerprint(self) -> str:
        """Identifies the reference as it is now (`reference.model_fingerprint`)."""

    @property
    def keeps_reference(self) -> bool:
        """Whether a reference is at hand throughout; if not, the policy serves as one before its first step."""

    @property
    def starts_as_reference(self) -> bool:
        """Whether the untrained policy's log-probabilities are the reference's."""

    def score_policy(
        self, completions: Sequence[TokenizedCompletion], *, with_informativeness: bool = True, label: str | None = None
    ) -> CompletionScores:
        """Return the policy's scores; `label` names a progress bar."""

    def score_reference(self, completions: Sequence[TokenizedCompletion]) -> CompletionScores:
        """Return the reference's scores; called only where `keeps_reference`."""


class LoadedModels:
    """A policy and, if given, a reference in this process: for stages that score without training.

    Args:
        policy, reference: causal language models on one device.
        token_budget: tokens per forward pass.
        progress: show progress bars.
    """

    def __init__(
        self, policy: Any, reference: nn.Module | None = None, *, token_budget: int, progress: bool = False
    ) -> None:
        self._policy, self._reference = policy, reference
        self._token_budget, self._progress = token_budget, progress
        self.keeps_reference = reference is not None
        self.starts_as_reference = reference is None
        self.reference_fingerprint = model_fingerprint(policy if reference is None else reference)

    def score_policy(
        self, completions: Sequence[TokenizedCompletion], *, with_informativeness: bool = True, label: str | None = None
    ) -> CompletionScores:
        return self._score(self._policy, completions, with_informativeness, label)

    def score_reference(self, completions: Sequence[TokenizedCompletion]) -> CompletionScores:
        return self._score(self._reference, completions, False, "scoring with the reference")

    def _score(
        self, model: Any, completions: Sequence[TokenizedCompletion], with_informativeness: bool, label: str | None
    ) -> CompletionScores:
        return score_completions(
            model,
            completions,
            token_budget=self._token_budget,
            device=model.device,
            with_informativeness=with_informativeness,
            progress=label if self._progress else None,
        )
