"""Padded over real tokens, when scoring and when training, against TRL.

Counted, not timed: a hook on the embedding sees the shape of every batch that a model is run on. Scoring is
`score_completions` against TRL's reference pass, training is one optimizer step on all pairs by `SAGETrainer` with the
selector `all` against `DPOTrainer`, both with microbatches of 8 pairs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from benchmarks import harness
from benchmarks.harness import Claim, cost_claim
from benchmarks.scoring import DEFAULT_BATCH, make_contest
from benchmarks.training_step import MICROBATCH, VOCABULARY, make_sage, make_trl
from benchmarks.workload import make_policy

MOST = {"scoring": 1.06, "training": 1.15}


@contextlib.contextmanager
def counted_tokens(model: Any, *, training: bool) -> Iterator[list[int]]:
    """Yield a list that receives the padded tokens of every forward pass in training (else: evaluation) mode."""
    counts: list[int] = []

    def count(module: Any, inputs: Any, _output: Any) -> None:
        if module.training == training:
            counts.append(inputs[0].numel())

    handle = model.get_input_embeddings().register_forward_hook(count)
    try:
        yield counts
    finally:
        handle.remove()


def benchmark(quick: bool) -> list[Claim]:
    make_model = functools.partial(make_policy, VOCABULARY)
    contest = make_contest(VOCABULARY, 64 if quick else 128)
    real = sum(len(completion) for completion in contest.completions)
    with counted_tokens(contest.model, training=False) as ours:
        contest.ours()
    with counted_tokens(contest.trainer.ref_model, training=False) as peer:
        contest.peer(DEFAULT_BATCH)
    claims = _claims("scoring", sum(ours) / real, sum(peer) / real)

    pairs = 32 if quick else 64
    totals = []
    for trainer in (
        make_sage(make_model, 1.0, pairs=pairs, selector="all", max_steps=1),
        make_trl(make_model, MICROBATCH, pairs=pairs, max_steps=1),
    ):
        columns = trainer.train_dataset[:]
        rows = zip(*(columns[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")), strict=True)
        real = sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in rows)
        with counted_tokens(trainer.model, training=True) as counts:
            trainer.train()
        totals.append(sum(counts) / real)
    return claims + _claims("training", *totals)


def _claims(what: str, ours: float, peer: float) -> list[Claim]:
    return [
        cost_claim(f"padding when {what}", ours=ours, peer=peer, unit="padded/real"),
        cost_claim(
            f"padding when {what}, at most {MOST[what]}", ours=ours, peer=MOST[what], unit="padded/real", required=1.0
        ),
    ]


if __name__ == "__main__":
    harness.run(benchmark, name="padding")
