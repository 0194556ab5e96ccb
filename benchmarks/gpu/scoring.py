"""Forward-only scoring on a GPU: tokens/s, fraction of the measured matmul peak, and TRL's reference pass.

A randomly initialised Qwen2.5-1.5B shape in bfloat16; pairs as in `benchmarks.scoring` (completion lengths log-normal:
mean 300, sigma 0.9, up to 3,072). The peer is TRL's reference pass at the fastest of several batch sizes. Ours runs
padded in length buckets (sdpa), and without padding (FlashAttention if installed, else FlexAttention). The peak is that
of 8192 x 8192 products in the same run. Both must give about the same log-probabilities before anything is timed.
Without a GPU a toy model runs: the mechanics, not a measurement.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from benchmarks import harness
from benchmarks.gpu.setup import find_setup, measured_peak, packing_attention, scoring_flops
from benchmarks.harness import Claim, interleave, rate_claim
from benchmarks.scoring import Contest
from benchmarks.workload import make_pairs
from sage_dpo.scoring import score_completions

BATCHES = (1, 2, 4, 8, 16)
TOKEN_BUDGETS = (16_384, 65_536)
OF_PEAK, OF_TRL = 0.5, 2.0


def benchmark(quick: bool) -> list[Claim]:
    setup = find_setup()
    pairs = 4 if setup.is_toy else (64 if quick else 512)
    batches, budgets, repetitions = ((1, 8), TOKEN_BUDGETS[:1], 1) if quick else (BATCHES, TOKEN_BUDGETS, 3)
    contest = Contest(setup.make_model, make_pairs(pairs, setup.shape["vocab_size"]))
    kinds = ["sdpa"] if setup.is_toy else ["sdpa", packing_attention()]
    models = {kind: setup.make_model(kind) for kind in kinds}

    def score(kind: str, budget: int) -> np.ndarray:
        return score_completions(models[kind], contest.completions, token_budget=budget, device=setup.device).logps

    runs = {f"{k}, {b:,} tokens a batch": functools.partial(score, k, b) for k in models for b in budgets}
    expected = contest.peer(batches[-1])
    for run in runs.values():  # also compiles what is compiled
        np.testing.assert_allclose(run(), expected, rtol=1e-4 if setup.dtype == torch.float32 else 2e-2)
    peers = {f"trl {b}": functools.partial(contest.peer, b) for b in batches}
    seconds = interleave(runs | peers, repetitions)
    best = min(peers, key=lambda name: seconds[name])
    tokens = sum(len(completion) for completion in contest.completions)
    flops, peak = scoring_flops(setup.model_shape(), contest.completions), measured_peak(setup)
    trl = f"TRL at its fastest, batch {best.removeprefix('trl ')}"
    claims = []
    for name in runs:
        label = f"{setup.name}: scoring, {name}"
        claims += [
            rate_claim(f"{label}: {trl}", ours=tokens / seconds[name], peer=tokens / seconds[best], unit="tokens/s"),
            rate_claim(f"{label}: matmul peak", ours=flops / seconds[name] / 1e12, peer=peak / 1e12, unit="TFLOP/s"),
        ]
    fastest = min(runs, key=lambda name: seconds[name])
    label = f"{setup.name}: scoring at its fastest"
    return [
        *claims,
        rate_claim(
            f"{label}: {trl}",
            ours=tokens / seconds[fastest],
            peer=tokens / seconds[best],
            unit="tokens/s",
            required=setup.aim(OF_TRL),
        ),
        rate_claim(
            f"{label}: matmul peak",
            ours=flops / seconds[fastest] / 1e12,
            peer=peak / 1e12,
            unit="TFLOP/s",
            required=setup.aim(OF_PEAK),
        ),
    ]


if __name__ == "__main__":
    harness.run(benchmark, name="gpu.scoring")
