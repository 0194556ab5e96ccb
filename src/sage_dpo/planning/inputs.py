"""What a plan is made from: the model's shape, lengths, sizes of the data. Reads configurations and data, no weights.

Everything that is measured, given or assumed is put down in words: a plan is as good as its assumptions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sage_dpo.config import (
    FileProblemSettings,
    FixedPairSettings,
    GymProblemSettings,
    PolicySettings,
    ProblemSettings,
    RunConfig,
)
from sage_dpo.core.cost import ModelShape
from sage_dpo.core.pairing import PoolSize
from sage_dpo.errors import ConfigError
from sage_dpo.evaluation.runner import suite_sampling
from sage_dpo.evaluation.suites import BENCHMARKS
from sage_dpo.gym.suites import SUITES
from sage_dpo.pairs.preference_data import load_preference_data, tokenize_preferences
from sage_dpo.pipeline.policies import load_tokenizer, policy_path
from sage_dpo.pipeline.sources import load_problem_source, suite_names
from sage_dpo.records import Problem
from sage_dpo.rollouts.engine import build_prompts

SAMPLE = 256
"""Prompts or pairs that are tokenized to measure lengths."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Given:
    """What the user says instead of having it measured; `None` where nothing was said.

    Attributes:
        prompt_tokens, completion_tokens: mean lengths, chat template and end of sequence included.
        problems: number of training problems.
        parameters, layers, hidden, kv_width, vocabulary, tied: the model's shape, see `core.cost.ModelShape`.
    """

    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    problems: int | None = None
    parameters: float | None = None
    layers: int | None = None
    hidden: int | None = None
    kv_width: int | None = None
    vocabulary: int | None = None
    tied: bool | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "completion_tokens", "problems"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected a number above 0")


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and completions: means, and the longest that can occur."""

    prompt: float
    completion: float
    longest_prompt: int
    longest_completion: int
    longest: int


@dataclass(frozen=True)
class SuiteSize:
    """Problems of an evaluation suite, and samples of each."""

    problems: int
    samples: int


@dataclass
class Inputs:
    """What a plan is made from.

    Attributes:
        shape: of the policy.
        weight_bytes: of a weight as loaded.
        lengths: of prompts and completions.
        problems: training problems; 0 without any.
        probe: probe problems; 0 without any.
        suites: evaluation suites by name.
        fixed_pool: the pool of a recipe with fixed pairs.
        has_success_rates: whether fixed pairs come with success rates, so that strata need no estimate.
        notes: how each of these is known.
    """

    shape: ModelShape
    weight_bytes: int
    lengths: Lengths
    problems: int = 0
    probe: int = 0
    suites: dict[str, SuiteSize] = field(default_factory=dict)
    fixed_pool: PoolSize | None = None
    has_success_rates: bool = True
    notes: list[str] = field(default_factory=list)


def gather_inputs(config: RunConfig, given: Given) -> Inputs:
    """Return the inputs of a recipe's plan.

    Raises:
        ConfigError, DataError: the model's shape, the tokenizer or the data cannot be read and was not given either.
    """
    notes: list[str] = []
    shape, weight_bytes = _model_shape(config.policy, given, notes)
    problems = _load(config.problems, config.seed)
    count = _problem_count(config, given, problems)
    if isinstance(config.pairs, FixedPairSettings):
        inputs = _fixed_inputs(config, config.pairs, given, shape, weight_bytes, notes)
    else:
        lengths = _on_policy_lengths(config, given, problems, notes)
        inputs = Inputs(shape, weight_bytes, lengths, notes=notes)
    inputs.problems = count
    inputs.probe = _source_size(config.probe, config.seed)
    if config.probe is not None and not inputs.probe:
        notes.append("probe: its problems are not here and have no limit, so they are not counted")
    if config.evaluation is not None:
        inputs.suites = {name: _suite_size(name) for name in suite_names(config.evaluation)}
    return inputs


# -- the model ---------------------------------------------------------------------------------------------------------


def _model_shape(policy: PolicySettings, given: Given, notes: list[str]) -> tuple[ModelShape, int]:
    sizes = {name: getattr(given, name) for name in ("parameters", "layers", "hidden", "vocabulary")}
    if any(size is not None for size in (*sizes.values(), given.kv_width, given.tied)):
        missing = [f"--{name}" for name, size in sizes.items() if size is None]
        if missing:
            raise ConfigError(f"the model's shape is given in part; add {', '.join(missing)}, or give none of it")
        parameters, layers, hidden, vocabulary = (round(size) for size in sizes.values())
        try:
            shape = ModelShape(
                parameters, layers, hidden, hidden, given.kv_width or hidden, vocabulary, bool(given.tied)
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None
        notes.append(f"model: {shape.parameters:,} parameters, {shape.layers} layers, as given")
        return shape, _BYTES.get(policy.dtype, 2)
    shape, dtype = read_model_shape(policy)
    notes.append(f"model: {shape.parameters:,} parameters, {shape.layers} layers, from {policy.path}'s configuration")
    return shape, _BYTES.get(policy.dtype if policy.dtype != "auto" else dtype, 4)


def read_model_shape(policy: PolicySettings) -> tuple[ModelShape, str]:
    """Return the policy's shape and the dtype its configuration states, from the configuration alone.

    The model is built without memory for its weights (the meta device), and its parameters are counted.

    Raises:
        ConfigError: no configuration can be read there, or it is not that of a causal language model.
    """
    path = policy_path(policy.path)
    try:
        config = AutoConfig.from_pretrained(path, revision=policy.revision)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"the configuration of policy {policy.path!r} cannot be read: {reason}; give a local folder with its "
            "config.json (--set policy.path=FOLDER), or the model's shape: --parameters, --layers, --hidden, "
            "--vocabulary, --kv-width, --tied"
        ) from None
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    shape = ModelShape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        query_width=heads * head_width,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        vocabulary=model.get_output_embeddings().weight.shape[0],
        tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
    )
    return shape, str(config.dtype).removeprefix("torch.")


# -- data --------------------------------------------------------------------------------------------------------------


def _load(source: ProblemSettings | None, seed: int) -> list[Problem]:
    """Return the problems if they are generated or lie in a local file, else none."""
    if source is None or (isinstance(source, FileProblemSettings) and not Path(source.path).exists()):
        return []
    return load_problem_source(source, seed=seed)[0]


def _problem_count(config: RunConfig, given: Given, problems: Sequence[Problem]) -> int:
    source = config.problems
    if source is None:
        return 0
    count = given.problems or len(problems) or (source.limit if isinstance(source, FileProblemSettings) else None)
    if count is None:
        assert isinstance(source, FileProblemSettings)
        raise ConfigError(
            f"problems file {source.path!r} does not exist, so their number is not known; give it with --problems, or "
            "the file with --set problems.path=FILE"
        )
    return count


def _source_size(source: ProblemSettings | None, seed: int) -> int:
    if isinstance(source, GymProblemSettings):
        return source.count
    return len(_load(source, seed)) or (source.limit if source is not None and source.limit else 0)


def _suite_size(name: str) -> SuiteSize:
    size = SUITES[name].expected_size if name in SUITES else BENCHMARKS[name].size
    return SuiteSize(size, suite_sampling(name, max_new_tokens=1).samples)


# -- lengths -----------------------------------------------------------------------------------------------------------


def _on_policy_lengths(config: RunConfig, given: Given, problems: Sequence[Problem], notes: list[str]) -> Lengths:
    prompts = _prompt_lengths(config, given, problems, notes)
    limit = config.rollouts.max_new_tokens
    completion = given.completion_tokens
    if completion is None:
        completion = limit / 2
        notes.append(
            f"completions: {completion:g} tokens on average, assumed (half of rollouts.max_new_tokens); "
            "--completion-tokens sets it"
        )
    else:
        notes.append(f"completions: {completion:g} tokens on average, as given")
    return _lengths(fmean(prompts), min(completion, limit), round(max(prompts)), limit, _max_length(config))


def _prompt_lengths(config: RunConfig, given: Given, problems: Sequence[Problem], notes: list[str]) -> Sequence[float]:
    if given.prompt_tokens is not None:
        notes.append(f"prompts: {given.prompt_tokens:g} tokens on average, as given")
        return [given.prompt_tokens]
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
    lengths = [len(prompt.prompt_ids) for prompt in prompts]
    notes.append(f"prompts: {fmean(lengths):.1f} tokens on average, measured on {len(sample)} of {len(problems):,}")
    return lengths


def _fixed_inputs(
    config: RunConfig, pairs: FixedPairSettings, given: Given, shape: ModelShape, weight_bytes: int, notes: list[str]
) -> Inputs:
    data = load_preference_data(pairs.path, split=pairs.split, revision=pairs.revision, limit=pairs.limit)
    usable = 1.0
    if given.prompt_tokens is not None and given.completion_tokens is not None:
        prompt, completion = given.prompt_tokens, given.completion_tokens
        limit = _max_length(config)
        longest = round(prompt + completion if limit == float("inf") else limit)
        lengths = Lengths(prompt, completion, round(prompt), max(1, longest - round(prompt)), longest)
        notes.append(f"pairs: prompts of {prompt:g} and completions of {completion:g} tokens on average, as given")
    else:
        lengths, usable = _pair_lengths(config, given, data, notes)
    names = [name for name in ("prompt", "chosen", "rejected") if name in data.column_names]
    texts: Any = zip(*(data[name] for name in names), strict=True)
    distinct = {(json.dumps(row[:-2]), json.dumps(side)) for row in texts for side in row[-2:]}
    return Inputs(
        shape=shape,
        weight_bytes=weight_bytes,
        lengths=lengths,
        fixed_pool=PoolSize(usable * len(data), usable * len(distinct)),
        has_success_rates="success_rate" in data.column_names and None not in data["success_rate"],
        notes=notes,
    )


def _pair_lengths(config: RunConfig, given: Given, data: Any, notes: list[str]) -> tuple[Lengths, float]:
    """Return the lengths of a sample of pairs, and which share of them is not excluded."""
    sample = data.select(_evenly(len(data)))
    build = tokenize_preferences(sample, load_tokenizer(config.policy), max_length=config.training.max_length)
    if not build.pairs:
        raise ConfigError(f"none of {len(sample)} sampled pairs is usable, excluded: {build.counts}; check pairs.path")
    sides = [(len(p.prompt_ids), len(ids)) for p in build.pairs for ids in (p.chosen_ids, p.rejected_ids)]
    prompt = given.prompt_tokens or fmean(side[0] for side in sides)
    completion = given.completion_tokens or fmean(side[1] for side in sides)
    usable = len(build.pairs) / len(sample)
    notes.append(
        f"pairs: prompts of {prompt:.1f} and completions of {completion:.1f} tokens on average, measured on "
        f"{len(sample)} of {len(data):,}" + (f"; {1 - usable:.0%} of them are excluded" if usable < 1 else "")
    )
    longest = [max(side[0] for side in sides), max(side[1] for side in sides), max(sum(side) for side in sides)]
    return Lengths(prompt, completion, *longest), usable


def _lengths(prompt: float, completion: float, longest_prompt: int, limit: int, max_length: float) -> Lengths:
    longest = round(min(longest_prompt + limit, max_length))
    return Lengths(prompt, completion, longest_prompt, min(limit, longest), longest)


def _max_length(config: RunConfig) -> float:
    """The longest pair that any trained arm admits."""
    limits = [config.for_arm(arm).training.max_length for arm in config.arms]
    return max((float("inf") if limit is None else limit for limit in limits), default=float("inf"))


def _evenly(size: int) -> list[int]:
    count = min(size, SAMPLE)
    return [index * size // count for index in range(count)]
