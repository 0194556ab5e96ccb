"""What a resumed training must know beside the stream's state: what TRL and transformers count, and do not save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_dpo.training.trainer import SAGETrainer


def counters_state(trainer: SAGETrainer) -> dict[str, Any]:
    """Return TRL's count of tokens; the sum of the logged losses, that of the steps since, and the last step logged.

    Call it on every process.
    """
    pending = trainer.accelerator.gather(trainer._tr_loss.reshape(1)).mean()
    loss = {
        "total": float(trainer._total_loss_scalar),
        "pending": float(pending),
        "last_logged": int(trainer._globalstep_last_logged),
    }
    return {"trl_tokens": trainer._total_train_tokens, "loss": loss}


def restore_counters(trainer: SAGETrainer, state: Mapping[str, Any]) -> None:
    """Go on where `counters_state` was taken; transformers begins at 0 in every attempt."""
    trainer._total_train_tokens = state["trl_tokens"]
    trainer._total_loss_scalar = state["loss"]["total"]
    trainer._tr_loss.fill_(state["loss"]["pending"])
    trainer._globalstep_last_logged = state["loss"]["last_logged"]
