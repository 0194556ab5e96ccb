"""What making a policy cost: one record for training, a run's summary, a study's results and the reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Costs:
    """Tokens, pairs, operations and seconds; the fields are the keys of `summary.json` and `results.json`.

    Attributes:
        train_tokens: run forward and backward, prompt and completion, without padding.
        scored_tokens: run through the policy forward-only, to choose.
        reference_tokens: run through the reference forward-only.
        generated_tokens: completion tokens sampled for pools.
        wall_s: seconds of making the policy, without those of measuring it.
        wall_breakdown: seconds by part of the run, those of measuring it too.
        flops: floating-point operations of all of it.
        candidate_pairs, kept_pairs: pairs drawn, pairs trained on.
    """

    train_tokens: int = 0
    scored_tokens: int = 0
    reference_tokens: int = 0
    generated_tokens: int = 0
    wall_s: float = 0.0
    wall_breakdown: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0
    candidate_pairs: int = 0
    kept_pairs: int = 0

    def __add__(self, other: Costs) -> Costs:
        numbers = {name: getattr(self, name) + getattr(other, name) for name in COSTS}
        mine, others = self.wall_breakdown, other.wall_breakdown
        seconds = {part: mine.get(part, 0.0) + others.get(part, 0.0) for part in {**mine, **others}}
        return Costs(**numbers, wall_breakdown=seconds)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Costs:
        """Read the costs out of a mapping that may hold more; what was not recorded is zero."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


COSTS = tuple(f.name for f in fields(Costs) if f.name != "wall_breakdown")
"""The costs that are one number."""
