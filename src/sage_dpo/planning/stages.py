"""A stage of a plan, and what the stages of sampling and of training share: assumptions, padding, the pool's size.

What this file does not know: formulas (cost.py, memory.py, hardware.py, pool_size.py), the stages' order (plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sage_dpo.config import OnPolicyPairSettings, RunConfig
from sage_dpo.forward.packing import keeps_sequences_apart
from sage_dpo.planning.cost import StageCost
from sage_dpo.planning.inputs import Inputs
from sage_dpo.planning.pool_size import PoolSize, expected_pool

FIRST_ROLLOUTS, REFRESH_ROLLOUTS, PROBE, EVALUATION = (
    "rollouts, first pool",
    "rollouts, refreshes",
    "probe",
    "evaluation",
)
VERIFICATION, REFERENCE, SCORING, TRAINING = "verification", "reference", "scoring", "training"

MIXED_SHARE = 0.6
"""Share of the problems that some samples solve and others do not; assumed."""
PADDING = 1.1
"""Padded over real tokens in scoring and training where sequences run in length buckets, not packed; assumed."""
OCCUPANCY = 15 / 16
"""Share of a sampled batch's rows that run, mean over steps: free ones are taken again once they are an eighth."""
VERIFICATION_CPU_S = 0.005
"""CPU seconds to grade an answer: about what wrong answers to MATH500 take. Whole numbers take a fraction of it."""


@dataclass(frozen=True)
class Stage:
    """One stage of an arm, or of what all arms share.

    Attributes:
        name: of the stage.
        tokens: real tokens: sampled ones for rollouts, probe and evaluation, prompts and completions for the others;
            for the verification, answers.
        flops: operations.
        hours: on the plan's machine; of the verification, on its worker processes.
        memory_gb: peak on one GPU in 1e9 bytes, at the longest sequences that can occur. 0 for the verification.
    """

    name: str
    tokens: float = 0.0
    flops: float = 0.0
    hours: float = 0.0
    memory_gb: float = 0.0

    @classmethod
    def of(cls, name: str, cost: StageCost, *, hours: float, memory: float) -> Stage:
        """Return the stage of that cost; `memory` in bytes."""
        return cls(name, cost.tokens, cost.flops, hours, memory / 1e9)

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


def verification(config: RunConfig, answers: float) -> Stage:
    """Grade so many answers."""
    return Stage(VERIFICATION, answers, hours=answers * VERIFICATION_CPU_S / config.verification.workers / 3600)


def sampled_problems(config: RunConfig, inputs: Inputs) -> int:
    """Return the number of problems that one pool is sampled from."""
    return min(inputs.problems, config.rollouts.problems_per_pool or inputs.problems)


def pool_size(config: RunConfig, inputs: Inputs) -> PoolSize:
    """Return the size of a pool: that of the data, or what is expected of sampling."""
    if inputs.fixed_pool is not None:
        return inputs.fixed_pool
    assert isinstance(config.pairs, OnPolicyPairSettings)
    bound = config.pairs.max_pairs_per_problem
    return expected_pool(
        sampled_problems(config, inputs), config.rollouts.samples, bound=bound, mixed_share=MIXED_SHARE
    )


def padding(config: RunConfig) -> float:
    """Return padded over real tokens, in scoring and training."""
    return 1.0 if keeps_sequences_apart(config.policy.attn_implementation) else PADDING
