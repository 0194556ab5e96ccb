"""What a `CandidateStream` is told once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sage_dpo.config import PoolSettings, SelectorSettings


@dataclass(frozen=True)
class StreamSettings:
    """Sizes, seeds and bounds of a stream, beside the recipe's two sections.

    Attributes:
        selector: which selector, and how it cuts.
        pool: strata, schedule and refresh.
        keep: pairs trained on per step, over all processes.
        seed: of every draw and cut.
        max_length: longest prompt + completion of a pair, tokens; `None` sets no bound.
        eos_token_id: a completion of this token alone counts as empty.
        score_max_age: steps for which a completion's score is used again.
        groups_by_length: put kept pairs of similar length into one microbatch; if not, they stay in the order drawn.
        ld_alpha: weight of what the longer completion of a pair has beyond the shorter one's length, in the reference
            log-probabilities that pairs are trained with; `None` is 1.
        processes, process: how many train, and which one this is.
    """

    selector: SelectorSettings
    pool: PoolSettings
    keep: int
    seed: int = 0
    max_length: int | None = None
    eos_token_id: int | None = None
    score_max_age: int = 0
    groups_by_length: bool = True
    ld_alpha: float | None = None
    processes: int = 1
    process: int = 0

    def of_checkpoint(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the one it continues."""
        return {
            **self.selector.model_dump(mode="json"),
            **self.pool.model_dump(mode="json"),
            "keep_count": self.keep,
            "score_max_age": self.score_max_age,
        }
