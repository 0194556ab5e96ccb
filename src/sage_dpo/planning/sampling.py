"""What sampling takes: the rollouts of a pool, the probe, the evaluation. Counted as `rollouts` will run it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sage_dpo.config import LOCAL_ENGINE, RunConfig, TransformersEngineSettings
from sage_dpo.planning.cost import Sequences, decode_cost, kv_cache_bytes, prefill_cost
from sage_dpo.planning.hardware import LAYER_CALL_S, Machine
from sage_dpo.planning.inputs import Inputs
from sage_dpo.planning.memory import forward_bytes, running_bytes
from sage_dpo.planning.shape import TrainingSetup
from sage_dpo.planning.stages import EVALUATION, OCCUPANCY, PROBE, Stage, sampled_problems

_SERVER_BATCH = 256
_SERVED = TrainingSetup(
    weight_bytes=2, compute_bytes=2, optimizer_bytes=0
)  # bfloat16, as Qwen2.5 and others are stored
_SPARE_COLUMNS = 1.25  # the cache's rows are as wide as the longest of them, and a quarter of that is set aside
_LOGIT_BYTES = 12  # float32 logits, probabilities and their cumulative sum


@dataclass(frozen=True)
class Sampler:
    """Samples from the policy, on all GPUs, each an equal share of the problems; on one server.

    Attributes:
        config, machine, inputs: of the plan.
        setup: of the trainer under whose autocast and beside whose state it runs, or `untrained_setup`.
    """

    config: RunConfig
    machine: Machine
    inputs: Inputs
    setup: TrainingSetup

    def rollouts(self, name: str) -> Stage:
        """Sample one pool."""
        settings = self.config.rollouts
        problems = sampled_problems(self.config, self.inputs)
        if isinstance(settings.engine, TransformersEngineSettings):
            return self._sample(name, problems, settings.samples, settings.max_new_tokens)
        served = replace(self, setup=_SERVED)
        return served._sample(name, problems, settings.samples, settings.max_new_tokens, is_served=True)

    def probe(self) -> Stage:
        """Answer the probe problems once."""
        return self._sample(PROBE, self.inputs.probe, 1, self.config.rollouts.max_new_tokens)

    def evaluation(self) -> Stage:
        """Answer every suite once."""
        limit = self.config.evaluation.max_new_tokens if self.config.evaluation else 1
        suites = self.inputs.suites.values()
        stages = (self._sample(EVALUATION, suite.problems, suite.samples, limit) for suite in suites)
        return sum(stages, start=Stage(EVALUATION))

    def _sample(self, name: str, problems: int, samples: int, limit: int, *, is_served: bool = False) -> Stage:
        """Sample `samples` completions of at most `limit` tokens for each problem."""
        if not problems:
            return Stage(name)
        shape, setup, lengths, engine = self.inputs.shape, self.setup, self.inputs.lengths, self.config.rollouts.engine
        local = engine if isinstance(engine, TransformersEngineSettings) else LOCAL_ENGINE
        batch = _SERVER_BATCH if is_served else local.batch_size
        gpus = 1 if is_served else self.machine.count
        share = problems / gpus
        rows = min(batch, share * samples)
        prompts = max(1, rows / samples)
        sequences = Sequences(share * samples, lengths.prompt, min(lengths.completion, limit))
        prefill = prefill_cost(shape, setup, prompts=share, prompt=lengths.prompt, batch=prompts)
        decode = decode_cost(shape, setup, sequences, batch=batch, longest=limit, occupancy=OCCUPANCY)
        launch = 0.0 if is_served else LAYER_CALL_S  # servers launch captured graphs
        hours = sum(
            self.machine.hours(cost, in_float32=setup.in_float32, layer_call_s=launch) for cost in (prefill, decode)
        )
        memory = self._memory(rows, prompts, limit)
        return Stage.of(name, prefill + decode, hours=hours / gpus, memory=memory).times(gpus)

    def _memory(self, rows: float, prompts: float, limit: int) -> float:
        """Return the peak of a batch: weights, key-value cache, and the prefill's activations and logits."""
        shape, setup, longest = self.inputs.shape, self.setup, self.inputs.lengths.longest_prompt
        cached = _SPARE_COLUMNS * (longest + limit)
        memory = running_bytes(shape, setup) + kv_cache_bytes(shape, rows * cached, setup.compute_bytes)
        return memory + forward_bytes(
            shape,
            tokens=prompts * longest,
            logit_elements=rows * shape.vocabulary,
            compute_bytes=setup.compute_bytes,
            logit_bytes=_LOGIT_BYTES,
        )


def untrained_setup(inputs: Inputs) -> TrainingSetup:
    """Return how the policy is held where nothing trains it."""
    return TrainingSetup(weight_bytes=inputs.weight_bytes, compute_bytes=inputs.weight_bytes, optimizer_bytes=0)
