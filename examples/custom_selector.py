"""A selector of your own: `trimmed_margin` keeps the pairs of lowest margin but skips the most extreme ones.

Where labels are noisy, the pairs that the policy disagrees with most are the likeliest to be mislabelled; this selector
passes over the lowest `skip` of each stratum. Docs: docs/adding_a_selector.md. Runs offline on a CPU.

    python examples/custom_selector.py --steps 5
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import load_dataset
from numpy.typing import NDArray

from sage_dpo import SAGEConfig, SAGETrainer
from sage_dpo.core.utility import curvature, gradient_signal
from sage_dpo.gym.policy import bundled_policy_path
from sage_dpo.selectors.base import CandidateScores, Ranking, Selection, SelectorSettings, check_request
from sage_dpo.selectors.ranking import compute_margin, cut
from sage_dpo.selectors.registry import register_selector


@register_selector("trimmed_margin")
@dataclass(frozen=True)
class TrimmedMarginSelector:
    """Lowest margins first, the lowest `skip` of each stratum last."""

    settings: SelectorSettings
    skip: float = 0.2
    name: str = "trimmed_margin"
    needs_scores: bool = True  # the trainer runs the scoring pass
    needs_informativeness: bool = False

    @property
    def needs_reference(self) -> bool:
        return self.settings.margin != "confidence"

    def select(
        self,
        scores: CandidateScores | None,
        *,
        count: int,
        keep: int,
        strata: NDArray[np.int8] | None,
        rng: np.random.Generator,
    ) -> Selection:
        check_request(scores, count=count, keep=keep, strata=strata)
        if scores is None:
            raise ValueError("selector 'trimmed_margin' got no scores; score the candidates first (needs_scores)")
        margin = compute_margin(scores, self.settings)  # float64; names the rows that are NaN or infinite
        values = margin.numpy()
        priority = -values
        groups = np.zeros(count) if strata is None or self.settings.cut == "global" else strata
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            skipped = rows[np.argsort(values[rows], kind="stable")[: int(self.skip * rows.size)]]
            priority[skipped] = values[skipped] - 2 * np.abs(values).max() - 1  # below all others, least extreme first
        ranking = Ranking(
            margin=values,
            gradient_signal=gradient_signal(margin).numpy(),
            curvature=curvature(margin).numpy(),
            informativeness=np.ones(count),
            utility=priority,
            priority=priority,
        )
        return cut(ranking, keep, strata=strata, settings=self.settings, rng=rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).with_name("preferences.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("runs/custom_selector"))
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    args = SAGEConfig(
        output_dir=str(options.output),
        selector="trimmed_margin",
        max_steps=options.steps,
        per_device_train_batch_size=16,
        learning_rate=1e-4,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    trainer = SAGETrainer(
        str(bundled_policy_path("S")),
        args=args,
        train_dataset=load_dataset("json", data_files=str(options.data), split="train"),
    )
    trainer.train()
    last = [row for row in trainer.state.log_history if "loss" in row][-1]
    print(f"selector: {trainer.selector.name}, skip {trainer.selector.skip}")
    print(f"margin kept {last['sage/margin_kept']:.4f}, dropped {last['sage/margin_dropped']:.4f}")


if __name__ == "__main__":
    main()
