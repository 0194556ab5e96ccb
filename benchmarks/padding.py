"""Padded over real tokens, when scoring and when training, against TRL.

Counted, not timed: a hook on the embedding sees the shape of every batch that a model is run on. Scoring is
`score_completions` against TRL's reference pass, training is one optimizer step on all pairs by `SAGETrainer` with the
selector `all` against `DPOTrainer`, both with microbatches of 8 pairs. Prompts are not shared, but for the lines that
say so: there fewer tokens are run than there are.
"""

from __future__ import annotations

import functools
import math

from benchmarks import harness
from benchmarks.harness import Claim, cost_claim, counted_tokens
from benchmarks.scoring import DEFAULT_BATCH, make_contest
from benchmarks.shared_prompts import sharing_above
from benchmarks.training_step import MICROBATCH, VOCABULARY, make_sage, make_trl
from benchmarks.workload import make_policy
from sage_dpo.forward.prefix_sharing import MIN_SAVED_SHARE

MOST = {"scoring": 1.06, "training": 1.15}


def benchmark(quick: bool) -> list[Claim]:
    return [*_scoring(64 if quick else 128), *_training(32 if quick else 64)]


def _scoring(pairs: int) -> list[Claim]:
    contest = make_contest(VOCABULARY, pairs)
    real = sum(len(completion) for completion in contest.completions)
    ratios = {}
    for least in (math.inf, MIN_SAVED_SHARE):
        with sharing_above(least), counted_tokens(contest.model, training=False) as counts:
            contest.ours()
        ratios[least] = sum(counts) / real
    with counted_tokens(contest.trainer.ref_model, training=False) as counts:
        contest.peer(DEFAULT_BATCH)
    return _claims("scoring", *ratios.values(), sum(counts) / real)


def _training(pairs: int) -> list[Claim]:
    make_model = functools.partial(make_policy, VOCABULARY)
    ours = functools.partial(make_sage, make_model, 1.0, pairs=pairs, selector="all", max_steps=1)
    peer = functools.partial(make_trl, make_model, MICROBATCH, pairs=pairs, max_steps=1)
    ratios = []
    for make, least in ((ours, math.inf), (ours, MIN_SAVED_SHARE), (peer, math.inf)):
        trainer = make()
        columns = trainer.train_dataset[:]
        rows = zip(*(columns[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")), strict=True)
        real = sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in rows)
        with sharing_above(least), counted_tokens(trainer.model, training=True) as counts:
            trainer.train()
        ratios.append(sum(counts) / real)
    return _claims("training", *ratios)


def _claims(what: str, ours: float, shared: float, peer: float) -> list[Claim]:
    return [
        cost_claim(f"padding when {what}", ours=ours, peer=peer, unit="padded/real"),
        cost_claim(
            f"padding when {what}, at most {MOST[what]}", ours=ours, peer=MOST[what], unit="padded/real", required=1.0
        ),
        cost_claim(f"tokens run when {what}, prompts shared", ours=shared, peer=peer, unit="run/real"),
    ]


if __name__ == "__main__":
    harness.run(benchmark, name="padding")
