"""Forward-only scoring on a GPU: tokens/s, fraction of the measured matmul peak, and TRL's reference pass.

A randomly initialised Qwen2.5-1.5B shape in bfloat16; pairs as in `benchmarks.scoring` (completion lengths log-normal:
mean 300, sigma 0.9, up to 3,072). Both sides run with PyTorch's attention (sdpa) and with FlashAttention if it is
installed, else FlexAttention; TRL at several batch sizes, ours at several token budgets, prompts shared where the
attention can; the fastest of each are compared. The peak is that of 8192 x 8192 products in the same run, and is
compared with runs of every completion with its own prompt. All must give about the same log-probabilities
before anything is timed. Without a GPU a toy model runs: the mechanics, not a measurement.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from benchmarks import harness
from benchmarks.gpu.setup import Setup, find_setup, measured_peak, packing_attention, scoring_flops
from benchmarks.harness import Claim, interleave, rate_claim
from benchmarks.scoring import Contest
from benchmarks.shared_prompts import sharing
from benchmarks.workload import make_pairs
from sage_dpo.forward import score_completions

BATCHES = (1, 2, 4, 8, 16)
TOKEN_BUDGETS = (16_384, 65_536)
OF_PEAK, OF_TRL = 0.5, 2.0
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3}
"""Nats times the root of the tokens. Rounding adds up like a random walk; of tokens that see another context, too, but
with steps of a nat or more."""


def check(found: np.ndarray, expected: np.ndarray, contest: Contest, setup: Setup) -> None:
    """Refuse log-probabilities that differ by more than rounding."""
    roots = np.sqrt([len(completion.completion_ids) for completion in contest.completions])
    worst = float((np.abs(found - expected) / roots).max())
    limit = TOLERANCE[setup.dtype]
    if not worst <= limit:
        raise AssertionError(f"log-probabilities differ by {worst:.3g} sqrt(tokens) nats, expected at most {limit}")


def benchmark(quick: bool) -> list[Claim]:
    setup = find_setup()
    pairs = 4 if setup.is_toy else (64 if quick else 512)
    batches, budgets, repetitions = ((1, 8), TOKEN_BUDGETS[:1], 1) if quick else (BATCHES, TOKEN_BUDGETS, 3)
    kinds = ["sdpa"] if setup.is_toy else ["sdpa", packing_attention()]
    data = make_pairs(pairs, setup.shape["vocab_size"])
    contests = {kind: Contest(functools.partial(setup.make_model, kind), data) for kind in kinds}
    contest = contests["sdpa"]

    def score(kind: str, budget: int, is_shared: bool) -> np.ndarray:
        model = contests[kind].model
        with sharing(is_shared):
            return score_completions(model, contest.completions, token_budget=budget, device=setup.device).logps

    runs = {
        (f"{kind}, {budget:,} tokens a batch", is_shared): functools.partial(score, kind, budget, is_shared)
        for kind in kinds
        for budget in budgets
        for is_shared in (True, False)
    }
    peers = {f"{k}, batch {b}": functools.partial(contests[k].peer, b) for k in kinds for b in batches}
    expected = peers[f"sdpa, batch {batches[-1]}"]()
    for run in (*runs.values(), *peers.values()):  # also warms up, and compiles what is compiled
        check(run(), expected, contest, setup)
    seconds = interleave({f"{name} {is_shared}": run for (name, is_shared), run in runs.items()} | peers, repetitions)
    best = min(peers, key=lambda name: seconds[name])
    tokens = sum(len(completion) for completion in contest.completions)
    flops, peak = scoring_flops(setup.model_shape(), contest.completions), measured_peak(setup)
    fastest = {
        shared: min((n for n, s in runs if s is shared), key=lambda n: seconds[f"{n} {shared}"])
        for shared in (True, False)
    }
    claims = []
    for name, is_shared in runs:
        time = seconds[f"{name} {is_shared}"]
        is_best = name == fastest[is_shared]
        if is_shared:
            claim = rate_claim(
                f"{setup.name}: scoring, {name}: TRL at its fastest, {best}",
                ours=tokens / time,
                peer=tokens / seconds[best],
                unit="tokens/s",
                required=setup.aim(OF_TRL) if is_best else None,
            )
        else:  # all operations are done that are counted
            claim = rate_claim(
                f"{setup.name}: scoring, {name}, each with its own prompt: matmul peak",
                ours=flops / time / 1e12,
                peer=peak / 1e12,
                unit="TFLOP/s",
                required=setup.aim(OF_PEAK) if is_best else None,
            )
        claims.append(claim)
    return claims


if __name__ == "__main__":
    harness.run(benchmark, name="gpu.scoring")
