"""What it costs to use scores again (`score_max_age`): agreement of the selection, and tokens scored.

SAGE trains for 40 steps on the quickstart's first pool. At every step the candidates are also scored anew, and it is
counted how many of the kept pairs fresh scores would have kept too. By chance it would be the keep ratio, 50 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.end_to_end import CANDIDATES, Arms
from benchmarks.harness import Claim, cost_claim
from sage_dpo import SAGETrainer
from sage_dpo.selection.score_memory import ScoreMemory
from sage_dpo.selectors import Candidates

AGES = (2, 5, 10, 20)


class Agreement:
    """Scores every step's candidates a second time, fresh, and compares what would be kept."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def watch(self, trainer: SAGETrainer) -> None:
        scorer = trainer.stream.scorer
        score, memory = scorer.score, scorer.memory

        def both(columns: dict[str, list[Any]], **arguments: Any) -> Any:
            stale = score(columns, **arguments)
            scorer.memory = ScoreMemory(0)
            fresh = score(columns, **arguments)
            scorer.memory = memory
            kept = [self._kept(trainer, scores) for scores, _ in (stale, fresh)]
            self.shares.append(len(kept[0] & kept[1]) / len(kept[0]))
            return stale

        scorer.score = both  # type: ignore[method-assign]

    @staticmethod
    def _kept(trainer: SAGETrainer, scores: Any) -> set[int]:
        candidates = Candidates(len(scores), np.random.default_rng(0), scores)
        selection = trainer.stream.selector.select(candidates, min(trainer.keep_count, len(scores)))
        return set(selection.kept.tolist())


def benchmark(quick: bool) -> list[Claim]:
    arms = Arms(steps=8 if quick else 40)
    fresh = arms.ours("sage").token_counts.scored
    claims = []
    for age in AGES[1:3] if quick else AGES:
        agreement = Agreement()
        arms.ours("sage", watch=agreement.watch, score_max_age=age)
        scored = arms.ours("sage", score_max_age=age).token_counts.scored
        share = 100 * float(np.mean(agreement.shares))
        claims.append(Claim(f"age {age}: kept pairs that fresh scores keep too", share / 100, None, share, 100.0, "%"))
        claims.append(
            cost_claim(
                f"age {age}: tokens scored in {arms.steps} steps of {CANDIDATES}",
                ours=scored,
                peer=fresh,
                unit="tokens",
            )
        )
    return claims


if __name__ == "__main__":
    harness.run(benchmark, name="stale_scores")
