"""Rollouts: sample completions of problems from a policy, in process or from an OpenAI-compatible endpoint."""

from sage_dpo.rollouts.build import build_engine, sample_rollouts
from sage_dpo.rollouts.engine import RolloutEngine, RolloutPrompt, SamplingParams, build_prompts

__all__ = ["RolloutEngine", "RolloutPrompt", "SamplingParams", "build_engine", "build_prompts", "sample_rollouts"]
