"""A recipe -> what running it will take: tokens, operations, memory and hours of each stage, before anything is run.

The order of the stages is that of `pipeline.run`: what all arms share first, then each arm by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from sage_dpo.config import FixedPairSettings, OnPolicyPairSettings, RunConfig, ServerEngineSettings
from sage_dpo.planning.given import Given
from sage_dpo.planning.hardware import LAYER_CALL_S, Machine
from sage_dpo.planning.inputs import Inputs, gather_inputs
from sage_dpo.planning.sampling import Sampler, untrained_setup
from sage_dpo.planning.stages import (
    FIRST_ROLLOUTS,
    MIXED_SHARE,
    OCCUPANCY,
    REFERENCE,
    REFRESH_ROLLOUTS,
    SCORING,
    TRAINING,
    VERIFICATION_CPU_S,
    Stage,
    padding,
    pool_size,
    sampled_problems,
    verification,
)
from sage_dpo.planning.training import arm_training

SHARED = "first pool"
"""Name of the part that all arms share, beside the arms' own names."""
POOL_PAIRS, CANDIDATES, TRAINED, REFRESH_COUNT = "pairs of a pool", "candidate pairs", "trained pairs", "refreshes"

_SCORING_KNOBS = "lower training.score_token_budget, or train adapters (policy.lora)"
_KNOBS = {
    TRAINING: "lower training.microbatch_size or training.max_length, set training.trainer.gradient_checkpointing, or "
    "train adapters (policy.lora)",
    SCORING: _SCORING_KNOBS,
    REFERENCE: _SCORING_KNOBS,
}
_SAMPLING_KNOBS = (
    "lower rollouts.engine.batch_size or max_new_tokens, or load bfloat16 weights and train adapters (lora)"
)


@dataclass(frozen=True)
class PlanPart:
    """What all arms share, or one arm: its stages, and counts of pairs and refreshes."""

    name: str
    stages: tuple[Stage, ...]
    counts: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> Stage:
        """All stages together: operations and hours add up, of the memory it is the largest; tokens differ in kind."""
        whole = sum(self.stages, start=Stage("total"))
        return Stage("total", 0.0, whole.flops, whole.hours, whole.memory_gb)


@dataclass(frozen=True)
class Plan:
    """What a recipe will take.

    Attributes:
        name: of the recipe.
        machine: GPU, how many, and how much of their peak is reached, in words.
        parts: what all arms share, then the arms in the recipe's order.
        notes: what was measured, given and assumed.
        warnings: what will not fit.
    """

    name: str
    machine: str
    parts: tuple[PlanPart, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def total(self) -> Stage:
        return PlanPart("total", tuple(part.total for part in self.parts)).total

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with the totals."""
        parts = [{**asdict(part), "total": asdict(part.total)} for part in self.parts]
        return {**asdict(self), "parts": parts, "total": asdict(self.total)}


def plan_recipe(config: RunConfig, machine: Machine, given: Given | None = None) -> Plan:
    """Plan a recipe: read its data and the model's configuration, run nothing, load no weights.

    Raises:
        ConfigError, DataError: the recipe cannot be run as it is, or something cannot be read and was not given either.
    """
    return make_plan(config, machine, gather_inputs(config, given or Given()))


def make_plan(config: RunConfig, machine: Machine, inputs: Inputs) -> Plan:
    """Return the plan of a recipe whose inputs are known. Arithmetic only; errors as for `plan_recipe`."""
    parts = (_shared(config, machine, inputs), *(_arm(config, arm, machine, inputs) for arm in config.arms))
    return Plan(
        name=config.name,
        machine=str(machine),
        parts=parts,
        notes=(*inputs.notes, *_notes(config, machine, inputs)),
        warnings=tuple(_warnings(parts, machine)),
    )


def _shared(config: RunConfig, machine: Machine, inputs: Inputs) -> PlanPart:
    sampler = Sampler(config, machine, inputs, untrained_setup(inputs))
    stages = []
    if isinstance(config.pairs, OnPolicyPairSettings):
        stages.append(sampler.rollouts(FIRST_ROLLOUTS))
        stages.append(verification(config, sampled_problems(config, inputs) * config.rollouts.samples))
    if any(config.for_arm(arm).training.probe_steps for arm in config.arms):
        stages.append(sampler.probe())
    return PlanPart(SHARED, tuple(stages), {POOL_PAIRS: pool_size(config, inputs).pairs})


def _arm(recipe: RunConfig, name: str, machine: Machine, inputs: Inputs) -> PlanPart:
    alone = Sampler(recipe, machine, inputs, untrained_setup(inputs))
    suites = sum(suite.problems * suite.samples for suite in inputs.suites.values())
    if not recipe.arms[name].train:
        return PlanPart(name, _done([verification(recipe, suites), alone.evaluation()]))
    config = recipe.for_arm(name)
    training = arm_training(config, machine, inputs)
    beside = Sampler(config, machine, inputs, training.setup)
    steps, every = config.training.steps, config.training.probe_steps
    at_steps = {step for step in (config.evaluation.at_steps if config.evaluation else ()) if step < steps}
    ends = 2 if config.evaluation and config.evaluation.at_best else 1  # the best probe may be the last: at most
    sampled = training.refreshes if isinstance(config.pairs, OnPolicyPairSettings) else 0
    answers = suites * (ends + len(at_steps)) + sampled * sampled_problems(config, inputs) * config.rollouts.samples
    at_end = alone.evaluation().times(ends)
    stages = [
        beside.rollouts(REFRESH_ROLLOUTS).times(sampled),
        verification(config, answers),
        *training.stages(),
        beside.probe().times(-(-steps // every) if every else 0),
        at_end + beside.evaluation().times(len(at_steps)) if at_steps else at_end,
    ]
    counts = {
        CANDIDATES: steps * training.candidates,
        TRAINED: steps * training.kept,
        REFRESH_COUNT: training.refreshes,
    }
    return PlanPart(name, _done(stages), {key: float(count) for key, count in counts.items()})


def _done(stages: list[Stage]) -> tuple[Stage, ...]:
    """Leave out the stages in which nothing is done."""
    return tuple(stage for stage in stages if stage.tokens)


def _notes(config: RunConfig, machine: Machine, inputs: Inputs) -> Iterator[str]:
    pool = pool_size(config, inputs)
    if isinstance(config.pairs, FixedPairSettings):
        yield f"pool: {pool.pairs:,.0f} pairs of {pool.completions:,.0f} distinct completions, from the data"
    else:
        asked = sampled_problems(config, inputs)
        yield (
            f"pool: {asked:,} problems, {100 * MIXED_SHARE:g} % of them solved by some samples and not by others "
            f"(assumed): {pool.pairs:,.0f} pairs of {pool.completions:,.0f} distinct completions"
        )
    yield (
        f"assumed as well: padding {padding(config):g}, {100 * OCCUPANCY:.0f} % of a sampled batch's rows running, "
        f"{1000 * LAYER_CALL_S:g} ms to launch a layer, {1000 * VERIFICATION_CPU_S:g} ms of CPU to verify an answer"
    )
    if any(config.arms[arm].train and config.for_arm(arm).selection.is_gated for arm in config.arms):
        yield "gated arms are planned without their gate: it trains on fewer pairs, and may end training early"
    if config.training.score_max_age:
        yield "scoring is planned anew for every step; training.score_max_age will save some of it"
    is_served = isinstance(config.rollouts.engine, ServerEngineSettings)
    if inputs.weight_bytes == 4:
        sampled = "the evaluation is" if is_served else "the first pool and the evaluation are"
        yield f"{sampled} sampled in float32, which the policy is loaded in"
    if is_served:
        yield "rollouts are those of one server, with bfloat16 weights on a GPU of the same kind"
    if machine.count > 1:
        yield (
            f"{machine.count} GPUs share rollouts, probe, evaluation, reference, scoring and training equally, one "
            f"process each (`accelerate launch --num_processes {machine.count}`)"
        )


def _warnings(parts: tuple[PlanPart, ...], machine: Machine) -> Iterator[str]:
    gpu = machine.gpu
    above: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        for stage in part.stages:
            if stage.memory_gb > gpu.memory_gb:
                above.setdefault((stage.name, f"{stage.memory_gb:,.0f}"), []).append(part.name)
    for (stage_name, memory), names in above.items():
        knobs = _KNOBS.get(stage_name, _SAMPLING_KNOBS)
        yield f"{stage_name} ({', '.join(names)}): about {memory} GB, and {gpu.name} has {gpu.memory_gb:g}; {knobs}"
