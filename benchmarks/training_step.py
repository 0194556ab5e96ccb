"""One optimizer step: SAGE (score N pairs, train on gamma N) against TRL's DPO on all N.

The same N pairs (completion lengths log-normal: mean 300, sigma 0.9, up to 3,072), the same weights, reference
log-probabilities cached on both sides, and the same microbatches of 8 pairs (TRL's default), also at TRL's fastest of
1, 2, 4 and 8. A step is timed from the end of one to the end of the next, drawing, scoring and collating included. With
gamma = 1 and no selection, our trainer must give TRL's loss before anything is timed.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, TrainerCallback
from trl import DPOConfig, DPOTrainer

from benchmarks import harness
from benchmarks.harness import Claim, cost_claim
from benchmarks.workload import (
    PROMPT_LENGTHS,
    make_pairs,
    make_policy,
    make_tokenizer,
    temporary_folder,
    trl_arguments,
)
from sage_dpo import SAGEConfig, SAGETrainer

MakeModel = Callable[[], PreTrainedModel]

VOCABULARY = 2_000
PAIRS, MICROBATCH = 32, 8
REQUIRED = {0.5: 2.0, 0.25: 3.0}


class StepClock(TrainerCallback):
    """Seconds from the end of one optimizer step to the end of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def make_trl(make_model: MakeModel, batch_size: int, *, pairs: int = PAIRS, **changes: Any) -> DPOTrainer:
    """Return TRL's trainer on all pairs, one optimizer step an epoch."""
    arguments = trl_arguments(
        temporary_folder(),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=pairs // batch_size,
        precompute_ref_log_probs=True,
        **changes,
    )
    return DPOTrainer(args=DPOConfig(**arguments), **_model_and_data(make_model, pairs))


def make_sage(
    make_model: MakeModel,
    keep_ratio: float,
    *,
    pairs: int = PAIRS,
    selector: str = "sage",
    microbatch: int = MICROBATCH,
    prompt_lengths: tuple[int, int] = PROMPT_LENGTHS,
    **changes: Any,
) -> SAGETrainer:
    """Return our trainer: all pairs are candidates, `keep_ratio` of them are trained on."""
    kept = round(pairs * keep_ratio)
    arguments = trl_arguments(
        temporary_folder(),
        per_device_train_batch_size=min(microbatch, kept),
        gradient_accumulation_steps=max(1, kept // microbatch),
        precompute_ref_log_probs=True,
        selector=selector,
        keep_ratio=keep_ratio,
        stratified=False,
        log_candidates=False,
        gate_quantile=1.0,  # no gate: all pairs that are asked for are trained on
        **{"score_token_budget": 2048, **changes},
    )
    return SAGETrainer(args=SAGEConfig(**arguments), **_model_and_data(make_model, pairs, prompt_lengths))


def _model_and_data(
    make_model: MakeModel, pairs: int, prompt_lengths: tuple[int, int] = PROMPT_LENGTHS
) -> dict[str, Any]:
    model = make_model()
    vocabulary = model.config.vocab_size
    return {
        "model": model,
        "train_dataset": make_pairs(pairs, vocabulary, prompt_lengths=prompt_lengths),
        "processing_class": make_tokenizer(vocabulary),
    }


def first_loss(trainer: DPOTrainer) -> float:
    """Train for two steps and return the loss logged after the second, the first that is not log 2."""
    trainer.train()
    return float([entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1])


def step_seconds(trainers: dict[str, DPOTrainer], rounds: int) -> dict[str, float]:
    """Run the trainers in turns and return the median seconds of a step."""
    clocks = {}
    for name, trainer in trainers.items():
        clocks[name] = StepClock()
        trainer.add_callback(clocks[name])
    for _ in range(rounds):
        for trainer in trainers.values():
            trainer.train()
    return {name: statistics.median(clock.seconds) for name, clock in clocks.items()}


def benchmark(quick: bool) -> list[Claim]:
    pairs = 16 if quick else PAIRS
    check = {"max_steps": 2, "logging_strategy": "steps", "logging_steps": 1, "learning_rate": 1e-3}
    model = functools.partial(make_policy, VOCABULARY)
    ours = first_loss(make_sage(model, 1.0, pairs=pairs, selector="all", **check))
    np.testing.assert_allclose(ours, first_loss(make_trl(model, MICROBATCH, pairs=pairs, **check)), rtol=1e-3)
    batches = (MICROBATCH,) if quick else (1, 2, 4, MICROBATCH)
    trainers: dict[str, DPOTrainer] = {f"trl {b}": make_trl(model, b, pairs=pairs, max_steps=3) for b in batches}
    trainers |= {f"sage {gamma}": make_sage(model, gamma, pairs=pairs, max_steps=3) for gamma in REQUIRED}
    seconds = step_seconds(trainers, rounds=1 if quick else 2)
    best = min(batches, key=lambda b: seconds[f"trl {b}"])
    claims = []
    for gamma, required in REQUIRED.items():
        for label, batch, aim in (("", MICROBATCH, required), (" at its fastest", best, None)):
            claims.append(
                cost_claim(
                    f"training step, gamma {gamma}: TRL on all pairs, batch {batch}{label}",
                    ours=seconds[f"sage {gamma}"],
                    peer=seconds[f"trl {batch}"],
                    unit="s",
                    required=aim,
                )
            )
    return claims


if __name__ == "__main__":
    harness.run(benchmark, name="training_step")
