"""How long prompts and completions are: measured on a sample of the recipe's own data, given, or assumed.

Every function returns with the lengths how they are known, in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from sage_dpo.config import RunConfig
from sage_dpo.errors import ConfigError
from sage_dpo.pairs import PreferenceData, tokenize_preferences
from sage_dpo.pipeline.policies import load_tokenizer
from sage_dpo.planning.given import Given
from sage_dpo.records import Problem
from sage_dpo.rollouts.engine import build_prompts

SAMPLE = 256
"""Prompts or pairs that are tokenized to measure lengths."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and completions: means, and the longest that can occur."""

    prompt: float
    completion: float
    longest_prompt: int
    longest_completion: int
    longest: int


def sampled_lengths(config: RunConfig, given: Given, problems: Sequence[Problem]) -> tuple[Lengths, list[str]]:
    """Return the lengths of a recipe whose completions are yet to be sampled.

    Args:
        config: of the recipe.
        given: what is not to be measured.
        problems: the recipe's own; none where they are not here.

    Raises:
        ConfigError: prompts can be neither measured nor taken as given.
    """
    limit = config.rollouts.max_new_tokens
    mean, longest_prompt, prompt_note = _prompt_lengths(config, given, problems)
    if given.completion_tokens is None:
        completion, source = limit / 2, "assumed (half of rollouts.max_new_tokens); --completion-tokens sets it"
    else:
        completion, source = given.completion_tokens, "as given"
    longest = round(min(longest_prompt + limit, _max_length(config)))
    lengths = Lengths(mean, min(completion, limit), longest_prompt, min(limit, longest), longest)
    return lengths, [prompt_note, f"completions: {completion:g} tokens on average, {source}"]


def _prompt_lengths(config: RunConfig, given: Given, problems: Sequence[Problem]) -> tuple[float, int, str]:
    """Return the mean, the longest, and how they are known."""
    if given.prompt_tokens is not None:
        mean = given.prompt_tokens
        return mean, round(mean), f"prompts: {mean:g} tokens on average, as given"
    if not problems:
        raise ConfigError(
            "the recipe's problems cannot be loaded here, so the length of their prompts is not known; give "
            "--prompt-tokens (and --problems), or their file with --set problems.path=FILE"
        )
    try:
        tokenizer = load_tokenizer(config.policy)
    except ConfigError as error:
        raise ConfigError(f"prompts cannot be measured: {error}; or give --prompt-tokens") from None
    sample = [problems[i] for i in _evenly(len(problems))]
    settings = config.rollouts
    prompts = build_prompts(
        sample, tokenizer, prompt_template=settings.prompt_template, system_prompt=settings.system_prompt
    )
    sizes = [len(prompt.prompt_ids) for prompt in prompts]
    note = f"prompts: {fmean(sizes):.1f} tokens on average, measured on {len(sample)} of {len(problems):,}"
    return fmean(sizes), max(sizes), note


def pair_lengths(config: RunConfig, given: Given, data: PreferenceData) -> tuple[Lengths, float, str]:
    """Return the lengths of fixed pairs, the share of them that is not excluded, and how these are known.

    Args:
        config: of the recipe.
        given: where it has both lengths, nothing is measured.
        data: the pairs, of `load_preference_data`.

    Raises:
        ConfigError: the tokenizer cannot be loaded.
        EmptyPoolError: every sampled pair is excluded.
    """
    if given.prompt_tokens is not None and given.completion_tokens is not None:
        prompt, completion = given.prompt_tokens, given.completion_tokens
        limit = _max_length(config)
        longest = round(prompt + completion if limit == inf else limit)
        lengths = Lengths(prompt, completion, round(prompt), max(1, longest - round(prompt)), longest)
        return (
            lengths,
            1.0,
            f"pairs: prompts of {prompt:g} and completions of {completion:g} tokens on average, as given",
        )
    sample = data.select(_evenly(len(data)))
    build = tokenize_preferences(sample, load_tokenizer(config.policy), max_length=config.training.max_length)
    sides = [(len(p.prompt_ids), len(ids)) for p in build.pairs for ids in (p.chosen_ids, p.rejected_ids)]
    prompts, completions = zip(*sides, strict=True)
    prompt, completion = given.prompt_tokens or fmean(prompts), given.completion_tokens or fmean(completions)
    usable = len(build.pairs) / len(sample)
    note = (
        f"pairs: prompts of {prompt:.1f} and completions of {completion:.1f} tokens on average, measured on "
        f"{len(sample)} of {len(data):,}" + (f"; {1 - usable:.0%} of them are excluded" if usable < 1 else "")
    )
    return Lengths(prompt, completion, max(prompts), max(completions), max(map(sum, sides))), usable, note


def _max_length(config: RunConfig) -> float:
    """The longest pair that any trained arm admits."""
    limits = [config.for_arm(arm).training.max_length for arm in config.arms]
    return max((inf if limit is None else limit for limit in limits), default=inf)


def _evenly(size: int) -> list[int]:
    count = min(size, SAMPLE)
    return [index * size // count for index in range(count)]
