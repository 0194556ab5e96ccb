"""The on-policy recipe's arms, trained by this package and by TRL's `DPOTrainer`.

One pool: the first of recipes/on-policy.yaml, sampled, verified and paired by its pipeline. On it every arm takes
20 optimizer steps at the recipe's sizes: 64 pairs a step for DPO on all of them, 32 of 64 for the random half and for
SAGE. TRL has no refresh, so nobody refreshes. Seconds are those of construction and training, TRL's pass over the
reference (`precompute_ref_log_probs`, its faster way here) and our scoring included. Both must see the same tokens and
reach about the same loss on all pairs before anything is timed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from benchmarks import harness
from benchmarks.harness import Claim, cost_claim, interleave
from benchmarks.workload import temporary_folder, trl_arguments
from sage_dpo import SAGEConfig, SAGETrainer
from sage_dpo.config import RunConfig, load_config
from sage_dpo.gym.policy import bundled_policy_path
from sage_dpo.gym.world import generate_problems
from sage_dpo.pipeline.on_policy import OnPolicySource
from sage_dpo.pipeline.policies import load_model
from sage_dpo.run_folder import PoolFolder
from sage_dpo.selection.source import PoolContents
from sage_dpo.verification import Verifier

RECIPE = Path(__file__).parents[1] / "recipes" / "on-policy.yaml"
POLICY = str(bundled_policy_path("S"))
CANDIDATES, MICROBATCH, LEARNING_RATE = 64, 16, 1e-4


def first_pool(config: RunConfig, tokenizer: Any) -> PoolContents:
    """Sample, verify and pair, as the recipe does before its first step."""
    problems = generate_problems("train", config.problems.count or 320, seed=config.seed)  # type: ignore[union-attr]
    with Verifier(workers=2) as verifier:
        folder = PoolFolder(Path(temporary_folder()))
        source = OnPolicySource(config, problems, tokenizer, verifier, lambda _: folder, progress=False)
        return source.refresh(load_model(config.policy), version=0, step=0)


def as_text(pairs: Dataset, tokenizer: Any) -> Dataset:
    """Return tokenized pairs as the text that TRL's trainer takes; it tokenizes to the same ids (checked later)."""
    columns = {"prompt": "prompt_ids", "chosen": "chosen_ids", "rejected": "rejected_ids"}
    text = {name: [tokenizer.decode(ids) for ids in pairs[column]] for name, column in columns.items()}
    return Dataset.from_dict(
        {name: [" " * (name != "prompt") + line for line in lines] for name, lines in text.items()}
    )


class Arms:
    """The arms on one pool."""

    def __init__(self, steps: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(POLICY)
        contents = first_pool(load_config(RECIPE), self.tokenizer)
        self.pairs = contents.pairs
        self.text = as_text(contents.pairs, self.tokenizer)
        self.steps = steps

    def _arguments(self, trained: int, **changes: Any) -> dict[str, Any]:
        return trl_arguments(
            temporary_folder(),
            max_steps=self.steps,
            per_device_train_batch_size=MICROBATCH,
            gradient_accumulation_steps=trained // MICROBATCH,
            learning_rate=LEARNING_RATE,
            **changes,
        )

    def trl(self, trained: int, **changes: Any) -> DPOTrainer:
        arguments = DPOConfig(**self._arguments(trained, precompute_ref_log_probs=True, **changes))
        trainer = DPOTrainer(POLICY, args=arguments, train_dataset=self.text, processing_class=self.tokenizer)
        trainer.train()
        return trainer

    def ours(self, selector: str, *, watch: Callable[[SAGETrainer], None] | None = None, **changes: Any) -> SAGETrainer:
        ratio = 1.0 if selector == "all" else 0.5
        settings = {
            "selector": selector,
            "keep_ratio": ratio,
            "stratified": selector == "sage",
            "gate_quantile": 1.0,
            **changes,
        }
        arguments = SAGEConfig(**self._arguments(round(CANDIDATES * ratio), score_token_budget=2048, **settings))
        trainer = SAGETrainer(POLICY, args=arguments, train_dataset=self.pairs, processing_class=self.tokenizer)
        if watch is not None:
            watch(trainer)
        trainer.train()
        return trainer

    def check(self) -> None:
        """Raise unless both trainers see the same tokens and learn the same from all pairs."""
        logging = {"logging_strategy": "steps", "logging_steps": self.steps}
        peer, ours = self.trl(CANDIDATES, **logging), self.ours("all", **logging)
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            assert peer.train_dataset[name] == ours.train_dataset[name], f"{name} differ"
        losses = [next(row["loss"] for row in t.state.log_history if "loss" in row) for t in (peer, ours)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=0.1)  # mean over the run; the order of pairs differs


def benchmark(quick: bool) -> list[Claim]:
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing. is deprecated")
    arms = Arms(steps=6 if quick else 20)
    arms.check()
    half = CANDIDATES // 2
    runs: dict[str, Callable[[], Any]] = {
        "trl, all": lambda: arms.trl(CANDIDATES),
        "trl, half": lambda: arms.trl(half),
        "all": lambda: arms.ours("all"),
        "random": lambda: arms.ours("random"),
        "sage": lambda: arms.ours("sage"),
    }
    seconds = interleave(runs, 1 if quick else 3)
    lines = (
        ("SAGE, 32 of 64 pairs: TRL on all 64", "sage", "trl, all", 1.0),
        ("DPO on all 64 pairs: TRL on all 64", "all", "trl, all", None),
        ("DPO on a random 32: TRL on 32", "random", "trl, half", None),
        ("SAGE, 32 of 64 pairs: TRL on 32, no selection", "sage", "trl, half", None),
    )
    return [
        cost_claim(f"{arms.steps} steps, {label}", ours=seconds[ours], peer=seconds[peer], unit="s", required=required)
        for label, ours, peer, required in lines
    ]


if __name__ == "__main__":
    harness.run(benchmark, name="end_to_end")
