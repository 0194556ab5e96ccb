"""A selector of your own: `trimmed_margin` keeps the pairs of lowest margin but skips the most extreme ones.

Where labels are noisy, the pairs that the policy disagrees with most are the likeliest to be mislabelled; this selector
passes over the lowest `skip` of each stratum. Docs: docs/adding_a_selector.md. Runs offline on a CPU.

    python examples/custom_selector.py --steps 5
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from datasets import load_dataset

from sage_dpo import SAGEConfig, SAGETrainer
from sage_dpo.gym.policy import bundled_policy_path
from sage_dpo.selectors import Candidates, Ranking, Selector, margin_ranking, register_selector


@register_selector("trimmed_margin")
class TrimmedMargin(Selector):
    """Lowest margins first, the lowest `skip` of each stratum last."""

    skip = 0.2

    def rank(self, candidates: Candidates) -> Ranking:
        margin = self.margin(candidates)  # float64; names the rows that are NaN or infinite
        priority = -margin
        is_whole = candidates.strata is None or self.settings.cut == "global"
        strata = np.zeros(candidates.count) if is_whole else candidates.strata
        for stratum in np.unique(strata):
            rows = np.flatnonzero(strata == stratum)
            lowest = rows[margin[rows].argsort(stable=True)[: int(self.skip * rows.size)]]
            priority[lowest] = margin[lowest] - 2 * margin.abs().max() - 1  # below all others, least extreme first
        return margin_ranking(margin, priority)


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
    selector = trainer.stream.selector
    print(f"selector: {selector.settings.selector}, skip {selector.skip}")
    print(f"margin kept {last['sage/margin_kept']:.4f}, dropped {last['sage/margin_dropped']:.4f}")


if __name__ == "__main__":
    main()
