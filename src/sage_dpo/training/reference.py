"""Reference log-probabilities for a trainer: from which model they come, each completion once."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from accelerate import Accelerator
from accelerate.utils import is_peft_model
from numpy.typing import NDArray
from trl.trainer.utils import use_adapter

from sage_dpo.errors import DataError
from sage_dpo.forward import TokenizedCompletion
from sage_dpo.scoring import ReferenceCache, model_fingerprint
from sage_dpo.training.sharding import ShardedScorer
from sage_dpo.training.state import TokenCounts


class _Owner(Protocol):
    """What is needed of the trainer. The models are looked up at each use: distributed wrappers replace them."""

    model: Any
    ref_model: Any
    accelerator: Accelerator
    scorer: ShardedScorer
    token_counts: TokenCounts


class ReferenceLogps:
    """Looks log-probabilities up, and computes the missing ones with whatever serves as the reference:

    - the reference model, if there is one;
    - the policy with its adapter switched off (or its frozen copy `ref` switched on), in adapter runs;
    - the policy itself before its first step, in full fine-tuning without a reference model.

    Args:
        trainer: the trainer, already initialized by TRL.
        has_own_model: whether the user passed a reference model.

    Attributes:
        cache: log-probabilities by completion.
        is_policy: whether the policy, as it is now, is the reference. The trainer clears it at the first step. A policy
            whose weights differ from those TRL loaded as the reference never is.
    """

    def __init__(self, trainer: _Owner, *, has_own_model: bool) -> None:
        self._trainer = trainer
        is_adapter_run = is_peft_model(trainer.model)
        ref_model: Any = trainer.ref_model
        model = trainer.model if ref_model is None else trainer.accelerator.unwrap_model(ref_model)
        fingerprint = model_fingerprint(model, skip_trainable=is_adapter_run and ref_model is None)
        self.cache = ReferenceCache(fingerprint)
        is_same = ref_model is None or model_fingerprint(trainer.model) == fingerprint
        self.is_policy = is_same and not has_own_model and not is_adapter_run

    def logps(self, completions: Sequence[TokenizedCompletion]) -> NDArray[np.float64]:
        """Return `[N]` log-probabilities, nats; every process must call it with the same completions.

        Raises:
            DataError: the reference was not kept and a completion was not precomputed.
        """
        return self.cache.get(completions, self.compute)

    def compute(self, completions: Sequence[TokenizedCompletion]) -> NDArray[np.float64]:
        """Return `[N]` log-probabilities from a forward pass. Errors as for `logps`."""
        trainer = self._trainer
        context: Any = contextlib.nullcontext()
        model: Any = trainer.ref_model
        if model is None:
            model = trainer.model
            unwrapped = trainer.accelerator.unwrap_model(model)
            if is_peft_model(unwrapped):
                context = use_adapter(unwrapped, adapter_name="ref" if "ref" in unwrapped.peft_config else None)
            elif not self.is_policy:
                raise DataError(
                    f"{len(completions)} completions have no precomputed reference log-probability and the reference "
                    "model was not kept; set precompute_ref_log_probs to False"
                )
        with context:
            scores = trainer.scorer.score(model, completions)
        trainer.token_counts.reference += scores.tokens
        return scores.logps
