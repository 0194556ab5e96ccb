"""From a recipe's rollout section to an engine, and to the completions it samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sage_dpo import config
from sage_dpo.records import Completion, Problem
from sage_dpo.rollouts.engine import RolloutEngine, SamplingParams, build_prompts

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


def sample_rollouts(
    problems: Sequence[Problem],
    settings: config.RolloutSettings,
    *,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    policy_version: int = 0,
    progress: bool = False,
) -> list[Completion]:
    """Ask the problems as a recipe says: prompts, engine, K completions each."""
    prompts = build_prompts(
        problems, tokenizer, prompt_template=settings.prompt_template, system_prompt=settings.system_prompt
    )
    return build_engine(settings.engine, model=model, tokenizer=tokenizer).sample(
        prompts,
        settings=SamplingParams.from_settings(settings),
        seed=seed,
        policy_version=policy_version,
        progress=progress,
    )
