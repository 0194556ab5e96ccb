"""One optimizer step on a GPU: SAGE (score N pairs, train on gamma N) against TRL's DPO on all N.

As `benchmarks.training_step`, with a randomly initialised Qwen2.5-1.5B shape in bfloat16 and gradient checkpointing
(TRL's default) on both sides; TRL at the fastest of several microbatch sizes. Ours runs as it comes (sdpa), without
padding (FlashAttention if installed, else FlexAttention), and with its layers compiled. Without a GPU a toy model runs:
the mechanics, not a measurement.
"""

from __future__ import annotations

import functools
import gc

import torch
from trl import DPOTrainer

from benchmarks import harness
from benchmarks.gpu.setup import Setup, find_setup, packing_attention
from benchmarks.harness import Claim, cost_claim
from benchmarks.training_step import MICROBATCH, REQUIRED, make_sage, make_trl, step_seconds


def benchmark(quick: bool) -> list[Claim]:
    setup = find_setup()
    pairs = 8 if setup.is_toy else 64
    batches = (MICROBATCH,) if quick else (1, 2, 4, MICROBATCH)
    common = {"pairs": pairs, "max_steps": 2 if setup.is_toy else 4, "gradient_checkpointing": True}
    makers = {f"trl {b}": functools.partial(make_trl, setup.make_model, b, **common) for b in batches}
    variants = (
        {"sdpa": {}}
        if setup.is_toy
        else {"sdpa": {}, packing_attention(): {}, "sdpa, compiled": {"torch_compile": True}}
    )
    for gamma in REQUIRED:
        for variant, changes in variants.items():
            model = functools.partial(setup.make_model, variant.split(",")[0])
            makers[f"gamma {gamma}, {variant}"] = functools.partial(
                make_sage, model, gamma, score_token_budget=16_384, **common, **changes
            )
    seconds = {name: _measure(make, setup, rounds=1 if quick else 3) for name, make in makers.items()}
    best = min((name for name in makers if name.startswith("trl")), key=lambda name: seconds[name])
    return [
        cost_claim(
            f"{setup.name}: training step, {name}: TRL on all pairs at its fastest, batch {best.removeprefix('trl ')}",
            ours=seconds[name],
            peer=seconds[best],
            unit="s",
            required=setup.aim(next(aim for gamma, aim in REQUIRED.items() if name.startswith(f"gamma {gamma},"))),
        )
        for name in makers
        if name not in [f"trl {b}" for b in batches]
    ]


def _measure(make: functools.partial[DPOTrainer], setup: Setup, *, rounds: int) -> float:
    """Return the median seconds of a step; one trainer at a time, as weights and optimizer state take the memory."""
    trainer = make()
    trainer.train()  # kernels are chosen and layers compiled
    seconds = step_seconds({"it": trainer}, rounds)["it"]
    del trainer
    gc.collect()
    if setup.device == "cuda":
        torch.cuda.empty_cache()
    return seconds


if __name__ == "__main__":
    harness.run(benchmark, name="gpu.training_step")
