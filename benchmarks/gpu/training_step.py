"""One optimizer step on a GPU: SAGE (score N pairs, train on gamma N) against TRL's DPO on all N.

As `benchmarks.training_step`, with a randomly initialised Qwen2.5-1.5B shape in bfloat16 and gradient checkpointing
(TRL's default) on both sides. Both run with PyTorch's attention (sdpa), with FlashAttention if it is installed, else
FlexAttention, and with sdpa and compiled layers; TRL at several microbatch sizes; the fastest of each are compared.
With gamma = 1 and no selection, each of ours must give TRL's loss before anything is timed. Without a GPU a toy model
runs: the mechanics, not a measurement.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from trl import DPOTrainer

from benchmarks import harness
from benchmarks.gpu.setup import find_setup, packing_attention
from benchmarks.harness import Claim, cost_claim
from benchmarks.training_step import MICROBATCH, REQUIRED, first_loss, make_sage, make_trl, step_seconds

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
TOKEN_BUDGET = 16_384


def benchmark(quick: bool) -> list[Claim]:
    setup = find_setup()
    pairs = 8 if setup.is_toy else 64
    batches = (MICROBATCH,) if quick else (1, 2, 4, MICROBATCH)
    common: dict[str, Any] = {"pairs": pairs, "gradient_checkpointing": True}
    variants: dict[str, dict[str, Any]] = {"sdpa": {}}
    if not setup.is_toy:
        variants |= {packing_attention(): {}, "sdpa, compiled": {"torch_compile": True}}
    models = {variant: functools.partial(setup.make_model, variant.split(",")[0]) for variant in variants}
    sage = functools.partial(make_sage, score_token_budget=TOKEN_BUDGET, **common)

    checks = {"max_steps": 2, "logging_strategy": "steps", "logging_steps": 1, "learning_rate": 1e-3}
    expected = _alone(lambda: first_loss(make_trl(models["sdpa"], MICROBATCH, **common, **checks)))
    for variant, changes in variants.items():
        whole = functools.partial(sage, models[variant], 1.0, selector="all", **checks, **changes)
        loss = _alone(lambda make=whole: first_loss(make()))
        np.testing.assert_allclose(loss, expected, rtol=TOLERANCE[setup.dtype], err_msg=variant)

    steps = {"max_steps": 2 if setup.is_toy else 4}
    peers: dict[str, Callable[[], DPOTrainer]] = {
        f"{variant}, batch {b}": functools.partial(make_trl, models[variant], b, **common, **steps, **changes)
        for variant, changes in variants.items()
        for b in batches
    }
    rounds = 1 if quick else 3
    theirs = {name: _alone(lambda make=make: _measure(make(), rounds)) for name, make in peers.items()}
    best = min(theirs, key=lambda name: theirs[name])
    claims = []
    for gamma, required in REQUIRED.items():
        ours = {
            variant: _alone(lambda v=variant, g=gamma: _measure(sage(models[v], g, **steps, **variants[v]), rounds))
            for variant in variants
        }
        fastest = min(ours, key=lambda variant: ours[variant])
        claims += [
            cost_claim(
                f"{setup.name}: training step, gamma {gamma}, {variant}: TRL on all pairs at its fastest, {best}",
                ours=seconds,
                peer=theirs[best],
                unit="s",
                required=setup.aim(required) if variant == fastest else None,
            )
            for variant, seconds in ours.items()
        ]
    return claims


def _measure(trainer: DPOTrainer, rounds: int) -> float:
    """Return the median seconds of a step."""
    trainer.train()  # kernels are chosen and layers compiled
    return step_seconds({"it": trainer}, rounds)["it"]


def _alone(function: Callable[[], float]) -> float:
    """Call with one trainer at a time: weights and optimizer state take the memory."""
    result = function()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return result


if __name__ == "__main__":
    harness.run(benchmark, name="gpu.training_step")
