"""What a stage needs to know of its process: that it is the only one, and that memory is free before the next arm."""

from __future__ import annotations

import gc

import torch
from accelerate import PartialState

from sage_dpo.errors import ConfigError


def require_one_process() -> None:
    """Raise where `accelerate launch` has started several.

    Raises:
        ConfigError: rollouts and verification do not shard.
    """
    if PartialState().num_processes > 1:
        raise ConfigError(
            "`sage-dpo run` drives one process; for several, use SAGETrainer in a script under `accelerate launch` "
            "(see docs/scaling.md)"
        )


def release_memory() -> None:
    """Free what a trainer left: it is full of cycles, and the next arm's weights and optimizer need the room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
