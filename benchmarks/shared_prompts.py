"""Prompts run once for their completions, against running each completion with its own prompt.

Completions of log-normal lengths (mean 300, sigma 0.9, up to 3,072) behind prompts of about 75, 300 and 1,500 tokens:
the two sides of a pair, and the eight rollouts of a problem. The peers are our own scorer and training step
(gamma 0.5) with sharing switched off, and TRL's reference pass at the better of one and eight pairs a batch. All must
give the same log-probabilities and losses before anything is timed.
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import harness
from benchmarks.harness import Claim, cost_claim, interleave, rate_claim
from benchmarks.scoring import Contest
from benchmarks.training_step import StepClock, first_loss, make_sage
from benchmarks.workload import make_pairs, make_policy
from sage_dpo import SAGETrainer
from sage_dpo.forward import TokenizedCompletion, prefix_sharing, score_completions

VOCABULARY = 2_000
PROMPTS, QUICK_PROMPTS = (75, 300, 1_500), (300,)  # mean tokens
PAIRS, QUICK_PAIRS = 16, 8
ROLLOUTS = 8
BATCHES = (1, 8)
TOKEN_BUDGET = 4096


@contextlib.contextmanager
def sharing_above(min_saved_share: float) -> Iterator[None]:
    """Share prompts where that saves this share of the tokens; infinity is never."""
    before = prefix_sharing.MIN_SAVED_SHARE
    prefix_sharing.MIN_SAVED_SHARE = min_saved_share
    try:
        yield
    finally:
        prefix_sharing.MIN_SAVED_SHARE = before


def sharing(is_on: bool) -> contextlib.AbstractContextManager[None]:
    return sharing_above(0.0 if is_on else math.inf)


def make_contest(prompt: int, pairs: int) -> Contest:
    model = functools.partial(make_policy, VOCABULARY)
    return Contest(model, make_pairs(pairs, VOCABULARY, prompt_lengths=_around(prompt)), token_budget=TOKEN_BUDGET)


def rollouts(completions: Sequence[TokenizedCompletion]) -> list[TokenizedCompletion]:
    """Return the completions with every eight next to each other given one prompt."""
    return [
        TokenizedCompletion(completions[i - i % ROLLOUTS].prompt_ids, c.completion_ids)
        for i, c in enumerate(completions)
    ]


def saved_share(completions: Sequence[TokenizedCompletion]) -> float:
    """Return the share of the tokens that need not be run, were all in one row."""
    lengths = np.array([len(c) for c in completions])
    return prefix_sharing.saved_share(prefix_sharing.segments_of([c.prompt_ids for c in completions], lengths))


def score(contest: Contest, completions: Sequence[TokenizedCompletion], is_shared: bool) -> np.ndarray:
    device = contest.model.device
    with sharing(is_shared):
        return score_completions(contest.model, completions, token_budget=TOKEN_BUDGET, device=device).logps


def scoring_claims(prompt: int, pairs: int, repetitions: int) -> list[Claim]:
    contest = make_contest(prompt, pairs)
    kinds = {"2 of each": contest.completions, f"{ROLLOUTS} of each": rollouts(contest.completions)}
    saved = {}
    for kind, completions in kinds.items():
        np.testing.assert_allclose(*(score(contest, completions, on) for on in (True, False)), rtol=2e-5)
        saved[kind] = saved_share(completions)
    np.testing.assert_allclose(score(contest, contest.completions, True), contest.peer(BATCHES[-1]), rtol=2e-5)
    runs = {
        f"{kind} {is_shared}": functools.partial(score, contest, completions, is_shared)
        for kind, completions in kinds.items()
        for is_shared in (True, False)
    }
    seconds = interleave(runs | {f"trl {b}": functools.partial(contest.peer, b) for b in BATCHES}, repetitions)
    best = min(BATCHES, key=lambda batch: seconds[f"trl {batch}"])
    claims = [
        rate_claim(
            f"scoring, prompts of {prompt:,}, {kind}, {saved[kind]:.0%} of tokens saved: each with its own prompt",
            ours=len(completions) / seconds[f"{kind} True"],
            peer=len(completions) / seconds[f"{kind} False"],
            unit="completions/s",
            required=1.0,
        )
        for kind, completions in kinds.items()
    ]
    against_trl = rate_claim(
        f"scoring, prompts of {prompt:,}, 2 of each: TRL at its best of {BATCHES}, batch {best}",
        ours=2 * pairs / seconds["2 of each True"],
        peer=2 * pairs / seconds[f"trl {best}"],
        unit="completions/s",
    )
    return [*claims, against_trl]


def training_claim(prompt: int, pairs: int, rounds: int) -> Claim:
    make = functools.partial(
        make_sage,
        functools.partial(make_policy, VOCABULARY),
        0.5,
        pairs=pairs,
        prompt_lengths=_around(prompt),
        score_token_budget=TOKEN_BUDGET,
    )
    check = {"max_steps": 2, "logging_strategy": "steps", "logging_steps": 1, "learning_rate": 1e-3}
    losses = []
    for is_shared in (True, False):
        with sharing(is_shared):
            losses.append(first_loss(make(**check)))
    np.testing.assert_allclose(*losses, rtol=1e-3)
    trainer, clocks = make(max_steps=3), {True: StepClock(), False: StepClock()}
    for _ in range(rounds):
        for is_shared, clock in clocks.items():
            with sharing(is_shared):
                _train(trainer, clock)
    return cost_claim(
        f"training step, gamma 0.5, prompts of {prompt:,}: each row with its own prompt",
        ours=statistics.median(clocks[True].seconds),
        peer=statistics.median(clocks[False].seconds),
        unit="s",
        required=1.0,
    )


def benchmark(quick: bool) -> list[Claim]:
    prompts, pairs, repetitions = (QUICK_PROMPTS, QUICK_PAIRS, 1) if quick else (PROMPTS, PAIRS, 3)
    claims = [claim for prompt in prompts for claim in scoring_claims(prompt, pairs, repetitions)]
    return claims + [training_claim(prompt, pairs, 1 if quick else 3) for prompt in prompts]


def _train(trainer: SAGETrainer, clock: StepClock) -> None:
    trainer.add_callback(clock)
    trainer.train()
    trainer.remove_callback(clock)


def _around(mean: int) -> tuple[int, int]:
    return mean * 2 // 3, mean * 4 // 3


if __name__ == "__main__":
    harness.run(benchmark, name="shared_prompts")
