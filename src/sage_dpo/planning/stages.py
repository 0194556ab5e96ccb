"""What each stage of a recipe takes, from its settings and inputs. Arithmetic only.

The counts follow the code that will run: `training.trainer` for a step, `scoring` for forward passes, `rollouts` for
sampling.

What this file does not know: formulas (core/cost.py, core/pairing.py, core/hardware.py), the stages' order (plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sage_dpo.config import OnPolicyPairSettings, RunConfig, TransformersEngineSettings
from sage_dpo.core.cost import (
    Sequences,
    StageCost,
    TrainingSetup,
    adapter_parameters,
    cast_bytes,
    decode_cost,
    forward_bytes,
    inference_flops,
    kv_cache_bytes,
    prefill_cost,
    resident_bytes,
    step_flops,
    training_bytes,
)
from sage_dpo.core.hardware import LAYER_CALL_S, Gpu, seconds
from sage_dpo.core.pairing import PoolSize, distinct_completions, distinct_pairs, expected_pool
from sage_dpo.core.selection import candidate_count
from sage_dpo.errors import ConfigError
from sage_dpo.forward.packing import keeps_sequences_apart
from sage_dpo.pipeline.arms import trainer_arguments
from sage_dpo.planning.inputs import Inputs
from sage_dpo.selectors.registry import make_selector

FIRST_POOL, REFRESHES, PROBE, EVALUATION = "rollouts, first pool", "rollouts, refreshes", "probe", "evaluation"
VERIFICATION, REFERENCE, SCORING, TRAINING = "verification", "reference", "scoring", "training"

MIXED_SHARE = 0.6
"""Share of the problems that some samples solve and others do not; assumed."""
PADDING = 1.1
"""Padded over real tokens in scoring and training where sequences run in length buckets, not packed; assumed."""
OCCUPANCY = 2 / 3
"""Share of a sampled batch's rows that still run, mean over steps; assumed."""
VERIFICATION_CPU_S = 0.005
"""CPU seconds to grade an answer: about what wrong answers to MATH500 take. Whole numbers take a fraction of it."""

_SERVER_BATCH = 256
_LOSS_TILE = (4096, 32768)  # tokens x vocabulary entries that TRL 1.16's loss projects at once
_SCORER_SLICE = 2**26  # logits that the scorer holds at once on a GPU
_SCORER_LOGIT_BYTES = 10  # in half precision, in float32, and its exponential
_SAMPLER_LOGIT_BYTES = 12  # float32 logits, probabilities and their cumulative sum


@dataclass(frozen=True)
class Machine:
    """What a plan is for: `count` GPUs of a kind, of whose peak a fraction `utilization` is reached.

    Raises:
        ConfigError: count or utilization is out of range.
    """

    gpu: Gpu
    count: int = 1
    utilization: float = 0.4

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"--gpus is {self.count}, expected at least 1")
        self.hours(StageCost(), in_float32=False)

    def hours(self, cost: StageCost, *, in_float32: bool, layer_call_s: float = LAYER_CALL_S) -> float:
        """Return the hours of a cost on one of the GPUs."""
        utilization = self.utilization
        return seconds(cost, self.gpu, utilization=utilization, in_float32=in_float32, layer_call_s=layer_call_s) / 3600


@dataclass(frozen=True)
class Stage:
    """One stage of an arm, or of what all arms share.

    Attributes:
        name: of the stage.
        tokens: real tokens: sampled ones for rollouts, probe and evaluation, prompts and completions for the others;
            for the verification, answers.
        flops: operations.
        hours: on the plan's machine; of the verification, on its worker processes.
        memory_gb: peak on one GPU in 1e9 bytes, at the longest sequences that can occur; of sampling, if half of the
            completions are no longer than the mean. 0 for the verification.
    """

    name: str
    tokens: float = 0.0
    flops: float = 0.0
    hours: float = 0.0
    memory_gb: float = 0.0

    def __add__(self, other: Stage) -> Stage:
        return Stage(
            self.name,
            self.tokens + other.tokens,
            self.flops + other.flops,
            self.hours + other.hours,
            max(self.memory_gb, other.memory_gb),
        )

    def times(self, count: int) -> Stage:
        """Return the stage done `count` times over."""
        return replace(self, tokens=count * self.tokens, flops=count * self.flops, hours=count * self.hours)


# -- sampling and verification -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampler:
    """Samples from the policy, on one GPU.

    Attributes:
        config, machine, inputs: of the plan.
        setup: of the trainer under whose autocast and beside whose state it runs; `None` if the policy is alone.
    """

    config: RunConfig
    machine: Machine
    inputs: Inputs
    setup: TrainingSetup | None = None

    def rollouts(self, name: str) -> Stage:
        """Sample one pool."""
        settings = self.config.rollouts
        problems = asked(self.config, self.inputs)
        return self._sample(name, problems, settings.samples, settings.max_new_tokens, is_rollout=True)

    def probe(self) -> Stage:
        """Answer the probe problems once."""
        return self._sample(PROBE, self.inputs.probe, 1, self.config.rollouts.max_new_tokens)

    def evaluation(self) -> Stage:
        """Answer every suite once."""
        limit = self.config.evaluation.max_new_tokens if self.config.evaluation else 1
        suites = self.inputs.suites.values()
        stages = (self._sample(EVALUATION, suite.problems, suite.samples, limit) for suite in suites)
        return sum(stages, start=Stage(EVALUATION))

    def _sample(self, name: str, problems: int, samples: int, limit: int, *, is_rollout: bool = False) -> Stage:
        """Sample `samples` completions of at most `limit` tokens for each problem."""
        if not problems:
            return Stage(name)
        shape, lengths, engine = self.inputs.shape, self.inputs.lengths, self.config.rollouts.engine
        setup = self.setup or TrainingSetup(
            weight_bytes=self.inputs.weight_bytes, compute_bytes=self.inputs.weight_bytes
        )
        batch = engine.batch_size if isinstance(engine, TransformersEngineSettings) else _SERVER_BATCH
        sequences = Sequences(problems * samples, lengths.prompt, min(lengths.completion, limit))
        rows = min(batch, problems * samples)
        read = _read_bytes(setup)
        costs = (
            prefill_cost(
                shape, prompts=problems, prompt=lengths.prompt, weight_bytes=read, batch=max(1, rows / samples)
            ),
            decode_cost(
                shape,
                sequences,
                batch=batch,
                longest=limit,
                weight_bytes=read,
                cache_bytes=setup.compute_bytes,
                occupancy=OCCUPANCY,
            ),
        )
        memory = self._resident(setup)
        # Once half of the rows have ended, the engine goes on with the others alone.
        held = max(lengths.longest_prompt + sequences.completion, (lengths.longest_prompt + limit) / 2)
        memory += kv_cache_bytes(shape, rows * held, setup.compute_bytes)
        memory += forward_bytes(
            shape,
            tokens=max(1, rows / samples) * lengths.longest_prompt,
            logit_elements=rows * shape.vocabulary,
            compute_bytes=setup.compute_bytes,
            logit_bytes=_SAMPLER_LOGIT_BYTES,
        )
        is_served = is_rollout and not isinstance(engine, TransformersEngineSettings)  # servers launch captured graphs
        launch = 0.0 if is_served else LAYER_CALL_S
        in_float32 = setup.compute_bytes == 4
        hours = sum(self.machine.hours(cost, in_float32=in_float32, layer_call_s=launch) for cost in costs)
        return _stage(name, replace(costs[0] + costs[1], memory=memory), hours)

    def _resident(self, setup: TrainingSetup) -> float:
        shape = self.inputs.shape
        if self.setup is None:
            return float(shape.parameters * self.inputs.weight_bytes)
        return resident_bytes(shape, setup) + cast_bytes(shape, setup)


def verification(config: RunConfig, answers: float) -> Stage:
    """Grade so many answers."""
    return Stage(VERIFICATION, answers, hours=answers * VERIFICATION_CPU_S / config.verification.workers / 3600)


# -- training ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trainer:
    """One arm's trainer.

    Attributes:
        config: the arm's own.
        machine, inputs: of the plan.
        setup: precision, adapters, checkpointing.
        microbatch, accumulation: pairs of a microbatch, microbatches of a step.
        precomputes: the reference is run over the whole pool at the start.
    """

    config: RunConfig
    machine: Machine
    inputs: Inputs
    setup: TrainingSetup
    microbatch: int
    accumulation: int
    precomputes: bool

    @property
    def kept(self) -> int:
        """Pairs trained on per step."""
        return self.microbatch * self.accumulation

    @property
    def candidates(self) -> int:
        """Pairs drawn per step; fewer if the pool is smaller."""
        wanted = candidate_count(self.kept, self.config.selection.keep_ratio)
        return max(self.kept, min(wanted, int(self.pool.pairs)))

    @property
    def refreshes(self) -> int:
        """After every so many steps, but not after the last."""
        every = self.config.pool.refresh_steps
        return (self.config.training.steps - 1) // every if every else 0

    @property
    def pool(self) -> PoolSize:
        return pool_size(self.config, self.inputs)

    def stages(self) -> list[Stage]:
        """Reference, scoring and training of all steps."""
        scored, batches = 0.0, 0
        if make_selector(self.config.selection).needs_scores:
            batches = self.config.training.steps
            scored = self.config.training.steps * distinct_completions(self.pool, self.candidates)
        if self._estimates_strata:
            scored += (1 + self.refreshes) * self.pool.completions
        return [
            self._forward(REFERENCE, self._referred()),
            self._forward(SCORING, scored, batches=batches),
            self._optimizer_steps(),
        ]

    @property
    def _is_on_policy(self) -> bool:
        return isinstance(self.config.pairs, OnPolicyPairSettings)

    @property
    def _estimates_strata(self) -> bool:
        return self.config.pool.stratified and not self._is_on_policy and not self.inputs.has_success_rates

    def _referred(self) -> float:
        """Completions run through the reference: each distinct one that is trained on, or scored against it."""
        if self._estimates_strata and self.config.policy.lora is None:
            return 0.0  # the estimate of the first pool, made before the first step, is the reference's as well
        if self.precomputes:
            return self.pool.completions
        steps, every = self.config.training.steps, self.config.pool.refresh_steps
        versions = [steps]
        if self._is_on_policy and self.refreshes:
            versions = [every] * self.refreshes + [steps - every * self.refreshes]
        needs_all = make_selector(self.config.selection).needs_reference
        keep_ratio = 1.0 if needs_all else self.kept / self.candidates
        distinct = (distinct_pairs(self.pool, count * self.candidates, keep_ratio=keep_ratio) for count in versions)
        return sum(distinct_completions(self.pool, pairs) for pairs in distinct)

    def _forward(self, name: str, completions: float, *, batches: int = 0) -> Stage:
        """Forward-only, in at least `batches` batches of at most `score_token_budget` padded tokens."""
        shape, lengths = self.inputs.shape, self.inputs.lengths
        sequences = Sequences(completions, lengths.prompt, lengths.completion)
        budget = max(self.config.training.score_token_budget, lengths.longest)
        passes = max(padding(self.config) * sequences.tokens / budget, batches)
        positions = budget * lengths.longest_completion / lengths.longest
        memory = resident_bytes(shape, self.setup) + cast_bytes(shape, self.setup)
        memory += forward_bytes(
            shape,
            tokens=budget,
            logit_elements=min(positions * shape.vocabulary, _SCORER_SLICE),
            compute_bytes=self.setup.compute_bytes,
            logit_bytes=_SCORER_LOGIT_BYTES,
        )
        cost = StageCost(
            tokens=sequences.tokens,
            flops=padding(self.config) * inference_flops(shape, sequences),
            bytes_moved=passes * shape.parameters * _read_bytes(self.setup),
            memory=memory,
            layer_calls=passes * shape.layers,
        )
        return self._stage(name, cost)

    def _optimizer_steps(self) -> Stage:
        """Forward and backward over the kept pairs, microbatch by microbatch."""
        shape, lengths = self.inputs.shape, self.inputs.lengths
        steps, rows = self.config.training.steps, 2 * self.microbatch
        sequences = Sequences(2.0 * steps * self.kept, lengths.prompt, lengths.completion)
        tile = min(rows * lengths.longest_completion, _LOSS_TILE[0]) * min(shape.vocabulary, _LOSS_TILE[1])
        passes = steps * self.accumulation * (4 if self.setup.checkpointing else 3)  # a backward pass counts twice
        cost = StageCost(
            tokens=sequences.tokens,
            flops=padding(self.config) * step_flops(shape, sequences, self.setup),
            bytes_moved=passes * shape.parameters * _read_bytes(self.setup),
            memory=training_bytes(shape, self.setup, tokens=rows * lengths.longest, logit_elements=tile),
            layer_calls=passes * shape.layers,
        )
        return self._stage(TRAINING, cost)

    def _stage(self, name: str, cost: StageCost) -> Stage:
        """On all GPUs, each with an equal share."""
        hours = self.machine.hours(cost, in_float32=self.setup.compute_bytes == 4)
        return _stage(name, cost, hours / self.machine.count)


def make_trainer(config: RunConfig, machine: Machine, inputs: Inputs) -> Trainer:
    """Resolve an arm's arguments as its run will; precision is that of the planned machine, not of this one.

    Raises:
        ConfigError: as a run of the arm would.
    """
    given = config.training.trainer
    others = {name: value for name, value in given.items() if name not in ("bf16", "fp16", "tf32")}
    training = config.training.model_copy(update={"trainer": others})
    arguments = trainer_arguments(config.model_copy(update={"training": training}), Path("unused"), progress=False)
    is_mixed = bool(given.get("fp16")) or given.get("bf16") is not False
    lora = config.policy.lora
    modules = lora.target_modules if lora is not None and isinstance(lora.target_modules, list) else None
    setup = TrainingSetup(
        adapters=None if lora is None else adapter_parameters(inputs.shape, lora.r, modules),
        weight_bytes=inputs.weight_bytes,
        compute_bytes=2 if is_mixed else inputs.weight_bytes,
        optimizer_bytes=_optimizer_bytes(str(getattr(arguments.optim, "value", arguments.optim))),
        checkpointing=bool(arguments.gradient_checkpointing),
        has_reference=lora is None and not arguments.precompute_ref_log_probs,
    )
    return Trainer(
        config=config,
        machine=machine,
        inputs=inputs,
        setup=setup,
        microbatch=arguments.per_device_train_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        precomputes=bool(arguments.precompute_ref_log_probs),
    )


# -- sizes -------------------------------------------------------------------------------------------------------------


def asked(config: RunConfig, inputs: Inputs) -> int:
    """Return the number of problems that one pool asks."""
    return min(inputs.problems, config.rollouts.problems_per_pool or inputs.problems)


def padding(config: RunConfig) -> float:
    """Return padded over real tokens, in scoring and training."""
    return 1.0 if keeps_sequences_apart(config.policy.attn_implementation) else PADDING


def pool_size(config: RunConfig, inputs: Inputs) -> PoolSize:
    """Return the size of a pool: that of the data, or what is expected of sampling."""
    if inputs.fixed_pool is not None:
        return inputs.fixed_pool
    assert isinstance(config.pairs, OnPolicyPairSettings)
    bound = config.pairs.max_pairs_per_problem
    return expected_pool(asked(config, inputs), config.rollouts.samples, bound=bound, mixed_share=MIXED_SHARE)


def _optimizer_bytes(name: str) -> int:
    if "8bit" in name:
        return 2
    return 0 if name in ("adafactor", "sgd") else 8


def _read_bytes(setup: TrainingSetup) -> int:
    """Bytes moved to use a weight once: under autocast it is read, written in the smaller precision, and read again."""
    is_cast = setup.compute_bytes < setup.weight_bytes
    return setup.weight_bytes + (2 * setup.compute_bytes if is_cast else 0)


def _stage(name: str, cost: StageCost, hours: float) -> Stage:
    return Stage(name, cost.tokens, cost.flops, hours, cost.memory / 1e9)
