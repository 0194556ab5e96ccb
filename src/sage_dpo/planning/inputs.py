"""What a plan is made from: the model's shape, lengths, sizes of the data. Reads configurations and data, no weights.

Everything that is measured, given or assumed is put down in words: a plan is as good as its assumptions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sage_dpo.config import (
    EvaluationSettings,
    EverydayProblemSettings,
    EverydaySuiteSettings,
    FileProblemSettings,
    FileSuiteSettings,
    FixedPairSettings,
    GymProblemSettings,
    HeldOutProblemSettings,
    PolicySettings,
    ProblemFileSettings,
    ProblemSettings,
    RunConfig,
)
from sage_dpo.errors import ConfigError
from sage_dpo.evaluation.runner import suite_sampling
from sage_dpo.evaluation.suites import BENCHMARKS
from sage_dpo.gym.suites import suites_of
from sage_dpo.gym.world import STANDARD
from sage_dpo.pairs import PreferenceData, load_preference_data
from sage_dpo.pipeline.policies import policy_path
from sage_dpo.pipeline.sources import load_problem_source, load_suites, suite_names
from sage_dpo.planning.given import Given
from sage_dpo.planning.lengths import Lengths, pair_lengths, sampled_lengths
from sage_dpo.planning.pool_size import PoolSize
from sage_dpo.planning.shape import ModelShape
from sage_dpo.records import Problem

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class SuiteSize:
    """Problems of an evaluation suite, and samples of each."""

    problems: int
    samples: int


@dataclass(frozen=True)
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
    notes: tuple[str, ...] = ()


def gather_inputs(config: RunConfig, given: Given) -> Inputs:
    """Return the inputs of a recipe's plan.

    Raises:
        ConfigError, DataError: the model's shape, the tokenizer or the data cannot be read and was not given either.
    """
    shape, weight_bytes, note = _given_shape(config.policy, given) or _configured_shape(config.policy)
    notes = [note]
    problems = _load_problems(config.problems, config.seed)
    probe = _probe_count(config)
    count = _problem_count(config.problems, given, problems)
    if isinstance(config.probe, HeldOutProblemSettings):
        count = max(1, count - probe)
    pool, has_success_rates = None, True
    if isinstance(config.pairs, FixedPairSettings):
        pairs = config.pairs
        data = load_preference_data(pairs.path, **pairs.model_dump(exclude={"kind", "path"}))
        lengths, usable, note = pair_lengths(config, given, data)
        notes.append(note)
        pool = PoolSize(usable * len(data), usable * _distinct_completions(data))
        has_success_rates = all(row.get("success_rate") is not None for row in data)
    else:
        lengths, length_notes = sampled_lengths(config, given, problems)
        notes += length_notes
    if config.probe is not None and not probe:
        notes.append("probe: its problems are not here and have no limit, so they are not counted")
    suites = suite_names(config.evaluation) if config.evaluation is not None else []
    return Inputs(
        shape=shape,
        weight_bytes=weight_bytes,
        lengths=lengths,
        problems=count,
        probe=probe,
        suites={name: _suite_size(name, config.evaluation) for name in suites},
        fixed_pool=pool,
        has_success_rates=has_success_rates,
        notes=tuple(notes),
    )


# -- the model ---------------------------------------------------------------------------------------------------------


def _given_shape(policy: PolicySettings, given: Given) -> tuple[ModelShape, int, str] | None:
    """Return the shape that the user gives, bytes of a weight, and how they are known; `None` if none is given."""
    sizes = {name: getattr(given, name) for name in ("parameters", "layers", "hidden", "vocabulary")}
    if all(size is None for size in (*sizes.values(), given.kv_width, given.tied)):
        return None
    missing = [f"--{name}" for name, size in sizes.items() if size is None]
    if missing:
        raise ConfigError(f"the model's shape is given in part; add {', '.join(missing)}, or give none of it")
    parameters, layers, hidden, vocabulary = (round(size) for size in sizes.values())
    try:
        shape = ModelShape(parameters, layers, hidden, hidden, given.kv_width or hidden, vocabulary, bool(given.tied))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    note = f"model: {shape.parameters:,} parameters, {shape.layers} layers, as given"
    return shape, _BYTES.get(policy.dtype, 2), note


def _configured_shape(policy: PolicySettings) -> tuple[ModelShape, int, str]:
    """Return the shape of the model's own configuration, bytes of a weight, and how they are known."""
    shape, dtype = read_model_shape(policy)
    note = f"model: {shape.parameters:,} parameters, {shape.layers} layers, from {policy.path}'s configuration"
    return shape, _BYTES.get(policy.dtype if policy.dtype != "auto" else dtype, 4), note


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


# -- sizes of the data -------------------------------------------------------------------------------------------------


def _load_problems(source: ProblemSettings | None, seed: int) -> list[Problem]:
    """Return the problems if they are generated or lie in local files, else none."""
    if source is None or not all(Path(file.path).exists() for file in _files(source)):
        return []
    return load_problem_source(source, seed=seed).problems


def _problem_count(source: ProblemSettings | None, given: Given, problems: list[Problem]) -> int:
    if source is None:
        return 0
    count = given.problems or _size(source, problems)
    if not count:
        missing = ", ".join(repr(file.path) for file in _files(source) if not Path(file.path).exists())
        raise ConfigError(
            f"problems file {missing} does not exist, so their number is not known; give it with --problems, or the "
            "file with --set problems.path=FILE"
        )
    return count


def _probe_count(config: RunConfig) -> int:
    if isinstance(config.probe, HeldOutProblemSettings):
        return config.probe.count
    return 0 if config.probe is None else _size(config.probe, _load_problems(config.probe, config.seed))


def _size(source: ProblemSettings, problems: list[Problem]) -> int:
    """Return the number of loaded problems, else the limits of files that are not here, else 0."""
    limits = [file.limit for file in _files(source)]
    return len(problems) or (sum(limit for limit in limits if limit) if all(limits) else 0)


def _files(source: ProblemSettings) -> list[ProblemFileSettings]:
    if isinstance(source, GymProblemSettings | EverydayProblemSettings):
        return []
    return [source] if isinstance(source, FileProblemSettings) else list(source.files.values())


def _suite_size(name: str, evaluation: EvaluationSettings | None) -> SuiteSize:
    if evaluation is not None and isinstance(evaluation.suites, FileSuiteSettings | EverydaySuiteSettings):
        return SuiteSize(len(load_suites(evaluation)[name]), 1)
    gym = suites_of(STANDARD)  # the other track's suites have the same names and sizes
    size = gym[name].expected_size if name in gym else BENCHMARKS[name].size
    return SuiteSize(size, suite_sampling(name, max_new_tokens=1).samples)


def _distinct_completions(data: PreferenceData) -> int:
    """Return the number of distinct (prompt, completion) in preference data; `prompt` may be part of the messages."""
    rows = ([row.get(name, row.get(f"{name}_ids")) for name in ("prompt", "chosen", "rejected")] for row in data)
    return len({(json.dumps(row[0]), json.dumps(side)) for row in rows for side in row[1:]})
