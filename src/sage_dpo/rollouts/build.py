"""From a recipe's engine section to an engine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sage_dpo import config
from sage_dpo.rollouts.engine import RolloutEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build_engine(settings: config.EngineSettings, *, model: Any, tokenizer: PreTrainedTokenizerBase) -> RolloutEngine:
    """Make the engine that a recipe names. The server engine ignores `model`: the endpoint holds its own."""
    if isinstance(settings, config.ServerEngineSettings):
        from sage_dpo.rollouts.server import ServerEngine

        return ServerEngine(
            settings.base_url,
            settings.model,
            tokenizer,
            concurrency=settings.concurrency,
            timeout_s=settings.timeout_s,
            api_key=os.environ.get(settings.api_key_env),
        )
    from sage_dpo.rollouts.transformers import TransformersEngine

    return TransformersEngine(model, tokenizer, batch_size=settings.batch_size)
