"""What training an arm takes: reference, scoring, optimizer steps, counted as `training`, `scoring` will run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage_dpo.config import OnPolicyPairSettings, RunConfig
from sage_dpo.core.selection import candidate_count
from sage_dpo.pipeline.arms import trainer_arguments
from sage_dpo.planning.cost import Sequences, StageCost, inference_flops, step_flops
from sage_dpo.planning.hardware import Machine
from sage_dpo.planning.inputs import Inputs
from sage_dpo.planning.memory import forward_bytes, running_bytes, training_bytes
from sage_dpo.planning.pool_size import PoolSize, distinct_completions, distinct_pairs
from sage_dpo.planning.shape import TrainingSetup, adapter_parameters
from sage_dpo.planning.stages import REFERENCE, SCORING, TRAINING, Stage, padding, pool_size
from sage_dpo.selectors import make_selector

_LOSS_TILE = (4096, 32768)  # tokens x vocabulary entries that TRL 1.16's loss projects at once
_SCORER_SLICE = 2**26  # logits that the scorer holds at once on a GPU
_SCORER_LOGIT_BYTES = 10  # in half precision, in float32, and its exponential


@dataclass(frozen=True)
class ArmTraining:
    """The training of one arm.

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
        shape, setup, lengths = self.inputs.shape, self.setup, self.inputs.lengths
        sequences = Sequences(completions, lengths.prompt, lengths.completion)
        budget = max(self.config.training.score_token_budget, lengths.longest)
        passes = max(padding(self.config) * sequences.tokens / budget, batches)
        positions = budget * lengths.longest_completion / lengths.longest
        memory = running_bytes(shape, setup) + forward_bytes(
            shape,
            tokens=budget,
            logit_elements=min(positions * shape.vocabulary, _SCORER_SLICE),
            compute_bytes=setup.compute_bytes,
            logit_bytes=_SCORER_LOGIT_BYTES,
        )
        return self._stage(name, sequences, inference_flops(shape, sequences), passes, memory)

    def _optimizer_steps(self) -> Stage:
        """Forward and backward over the kept pairs, microbatch by microbatch."""
        shape, setup, lengths = self.inputs.shape, self.setup, self.inputs.lengths
        steps, rows = self.config.training.steps, 2 * self.microbatch
        sequences = Sequences(2.0 * steps * self.kept, lengths.prompt, lengths.completion)
        tile = min(rows * lengths.longest_completion, _LOSS_TILE[0]) * min(shape.vocabulary, _LOSS_TILE[1])
        passes = steps * self.accumulation * (4 if setup.checkpointing else 3)  # a backward pass counts twice
        memory = training_bytes(shape, setup, tokens=rows * lengths.longest, logit_elements=tile)
        return self._stage(TRAINING, sequences, step_flops(shape, sequences, setup), passes, memory)

    def _stage(self, name: str, sequences: Sequences, flops: float, passes: float, memory: float) -> Stage:
        """`passes` forward passes over the sequences, on all GPUs, each with an equal share."""
        shape, setup = self.inputs.shape, self.setup
        cost = StageCost(
            tokens=sequences.tokens,
            flops=padding(self.config) * flops,
            bytes_moved=passes * shape.parameters * setup.read_bytes,
            layer_calls=passes * shape.layers,
        )
        hours = self.machine.hours(cost, in_float32=setup.in_float32)
        return Stage.of(name, cost, hours=hours / self.machine.count, memory=memory)


def arm_training(config: RunConfig, machine: Machine, inputs: Inputs) -> ArmTraining:
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
    return ArmTraining(
        config=config,
        machine=machine,
        inputs=inputs,
        setup=setup,
        microbatch=arguments.per_device_train_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        precomputes=bool(arguments.precompute_ref_log_probs),
    )


def _optimizer_bytes(name: str) -> int:
    if "8bit" in name:
        return 2
    return 0 if name in ("adafactor", "sgd") else 8
