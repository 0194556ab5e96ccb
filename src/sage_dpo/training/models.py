"""The trainer's models, as the selection step asks for them: which one is the reference, and scoring on all processes.

The reference is

- the reference model, if there is one;
- the policy with its adapter switched off (or its frozen copy `ref` switched on), in adapter runs;
- the policy itself before its first step, in full fine-tuning without a reference model.

Where there is one it may move during training (`moving_reference.py`); its fingerprint follows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

from accelerate import Accelerator
from accelerate.utils import is_peft_model
from trl.trainer.utils import use_adapter

from sage_dpo.forward import CompletionScores, TokenizedCompletion
from sage_dpo.selection.reference import have_same_weights, model_fingerprint
from sage_dpo.training.moving_reference import ReferenceWeights
from sage_dpo.training.sharding import ShardedScorer


class _Owner(Protocol):
    """What is needed of the trainer. The models are looked up at each use: distributed wrappers replace them."""

    model: Any
    ref_model: Any
    accelerator: Accelerator


class TrainerModels:
    """See `sage_dpo.selection.models.Models`.

    Args:
        trainer: already initialized by TRL.
        scorer: runs the forward passes.
        has_own_reference: whether the user passed a reference model.

    Attributes:
        weights: of the reference, where there is one.
    """

    def __init__(self, trainer: _Owner, scorer: ShardedScorer, *, has_own_reference: bool) -> None:
        self._trainer, self._scorer = trainer, scorer
        is_adapter_run = is_peft_model(trainer.model)
        ref_model: Any = trainer.ref_model
        model = self._reference()
        skip = is_adapter_run and ref_model is None
        self._fingerprint = model_fingerprint(model, skip_trainable=skip)
        # a policy whose weights differ from those TRL loaded as the reference never is its own
        is_same = ref_model is None or (
            model_fingerprint(trainer.model) == self._fingerprint
            and (scorer.is_sharded or have_same_weights(trainer.model, model))  # a fingerprint reads samples only
        )
        self.starts_as_reference = is_same and not has_own_reference and not is_adapter_run
        self.keeps_reference = ref_model is not None or is_adapter_run
        self.weights = ReferenceWeights(self._reference, skip_trainable=skip, accelerator=trainer.accelerator)

    @property
    def reference_fingerprint(self) -> str:
        """Identifies the reference as it is now: as it was loaded, and where it has moved since."""
        return self._fingerprint + (self.weights.moved() if self.keeps_reference else "")

    @property
    def has_moved(self) -> bool:
        """Whether the reference is another than at the start of training."""
        return self.keeps_reference and bool(self.weights.moved())

    def _reference(self) -> Any:
        model: Any = self._trainer.model if self._trainer.ref_model is None else self._trainer.ref_model
        return self._trainer.accelerator.unwrap_model(model)

    def score_policy(
        self, completions: Sequence[TokenizedCompletion], *, with_informativeness: bool = True, label: str | None = None
    ) -> CompletionScores:
        return self._scorer.score(
            self._trainer.model, completions, with_informativeness=with_informativeness, label=label
        )

    def score_reference(self, completions: Sequence[TokenizedCompletion]) -> CompletionScores:
        model: Any = self._trainer.ref_model
        context: Any = contextlib.nullcontext()
        if model is None:
            model = self._trainer.model
            unwrapped = self._trainer.accelerator.unwrap_model(model)
            context = use_adapter(unwrapped, adapter_name="ref" if "ref" in unwrapped.peft_config else None)
        with context:
            return self._scorer.score(model, completions, with_informativeness=False)
