"""From a recipe's rollout section to an engine, and to the completions it samples."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dpo import config
from sage_dpo.records import Completion, Problem
from sage_dpo.rollouts.engine import (
    NothingSampledError,
    RolloutEngine,
    RolloutPrompt,
    SamplingParams,
    build_prompts,
)
from sage_dpo.rollouts.journal import CompletionJournal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sage_dpo.rollouts.handover import Handover


def build_engine(
    settings: config.EngineSettings,
    *,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    handover: Handover | None = None,
) -> RolloutEngine:
    """Make the engine that a recipe names.

    Args:
        settings: `rollouts.engine` of the recipe.
        model, tokenizer: the policy. Servers hold their own, which is compared with `model` unless that is `None`.
        handover: how servers get it; `None` where they hold it already.
    """
    if isinstance(settings, config.ServerEngineSettings):
        from sage_dpo.rollouts.server import ServerEngine

        key = os.environ.get(settings.api_key_env)
        return ServerEngine(settings, tokenizer, api_key=key, model=model, handover=handover)
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
    journal: Path | None = None,
    policy: str = "",
    handover: Handover | None = None,
) -> tuple[list[Completion], float]:
    """Ask the problems as a recipe says: prompts, engine, K completions each.

    Args:
        problems: in the order wanted.
        settings: of the recipe.
        model, tokenizer: the policy; a served one needs no model.
        seed, policy_version: of the sampling.
        progress: show a progress bar.
        journal: where completions are kept as they come, and taken over from an earlier attempt of the same job. The
            caller deletes it when it has stored the whole. `None` keeps none.
        policy: identifies the weights; a journal of others is not used.
        handover: how servers get the policy; see `build_engine`.

    Returns:
        Completions by problem, then sample, none for problems that a server had to leave out; seconds on the clock,
        those of earlier attempts included.
    """
    prompts = build_prompts(
        problems, tokenizer, prompt_template=settings.prompt_template, system_prompt=settings.system_prompt
    )
    engine, params = (
        build_engine(settings.engine, model=model, tokenizer=tokenizer, handover=handover),
        SamplingParams.from_settings(settings),
    )
    with CompletionJournal(journal, _key(prompts, settings, params, seed, policy_version, policy)) as kept:
        missing = [prompt for prompt in prompts if prompt.problem_id not in kept.kept]
        try:
            sampled = engine.sample(
                missing, settings=params, seed=seed, policy_version=policy_version, progress=progress, keep=kept.add
            )
        except NothingSampledError:
            if not kept.kept:
                raise
            sampled = []  # what an earlier attempt had left out, too
        by_problem = dict(kept.kept)
        for completion in sampled:
            by_problem.setdefault(completion.problem_id, []).append(completion)
        return [completion for prompt in prompts for completion in by_problem.get(prompt.problem_id, ())], kept.seconds


def _key(
    prompts: Sequence[RolloutPrompt],
    settings: config.RolloutSettings,
    params: SamplingParams,
    seed: int,
    policy_version: int,
    policy: str,
) -> dict[str, Any]:
    """Return everything that sampled completions depend on. Not where a server is reached, nor sizes of batches."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(f"{prompt.problem_id!r} {prompt.prompt_ids}\n".encode("utf-8", "surrogatepass"))
    served = settings.engine.model if isinstance(settings.engine, config.ServerEngineSettings) else None
    return {
        "policy": policy,
        "served_model": served,
        "prompts": digest.hexdigest(),
        "sampling": asdict(params),
        "seed": seed,
        "policy_version": policy_version,
    }
