"""Memory of scoring long chains of thought: flat in how many there are, linear in the longest, and against TRL.

Pairs of a chosen answer of L tokens and a rejected one of three quarters of that, vocabulary 32,000. Memory is what
scoring adds to a fresh process at its peak. The peer is TRL's reference pass, one pair a batch. Both must give the same
log-probabilities at the shortest length.
"""

from __future__ import annotations

import functools

import numpy as np
from datasets import Dataset

from benchmarks import harness
from benchmarks.harness import Claim, cost_claim, peak_memory_added, run_in_child
from benchmarks.scoring import Contest
from benchmarks.workload import make_policy

VOCABULARY, PROMPT = 32_000, 64
LENGTHS, QUICK_LENGTHS = (8_192, 16_384, 32_768), (2_048, 8_192)
MANY = 4
SLACK = 1.05  # a process's memory is counted in pages and arenas
OURS, TRL = 0, 1


def make_contest(length: int, pairs: int) -> Contest:
    """Return pairs whose longer sequence has `length` tokens, prompt included."""
    rng = np.random.default_rng(0)
    draw = lambda size: " ".join(f"w{word}" for word in rng.integers(2, VOCABULARY, size=size))  # noqa: E731
    answer = length - PROMPT - 1  # the end-of-sequence token is the last
    data = Dataset.from_dict(
        {
            "prompt": [draw(PROMPT) for _ in range(pairs)],
            "chosen": [" " + draw(answer) for _ in range(pairs)],
            "rejected": [" " + draw(answer * 3 // 4) for _ in range(pairs)],
        }
    )
    return Contest(functools.partial(make_policy, VOCABULARY, layers=2), data)


def added_memory(contestant: int, length: int, pairs: int) -> float:
    """Return MiB."""
    for contest in (
        make_contest(4 * PROMPT, 1),
        make_contest(length, pairs),
    ):  # the first one loads what is loaded once
        added = peak_memory_added(contest.ours if contestant == OURS else functools.partial(contest.peer, 1))
    return added


def benchmark(quick: bool) -> list[Claim]:
    lengths = QUICK_LENGTHS if quick else LENGTHS
    shortest, longest = lengths[0], lengths[-1]
    contest = make_contest(shortest, 1)
    np.testing.assert_allclose(contest.ours(), contest.peer(1), rtol=2e-5)
    memory = functools.partial(run_in_child, "long_context")
    ours = {length: memory(OURS, length, 1) for length in lengths}
    claims = [
        cost_claim(
            f"{length:,} tokens: TRL, batch 1", ours=ours[length], peer=memory(TRL, length, 1), unit="MiB", required=1.0
        )
        for length in (lengths[-1:] if quick else lengths)
    ]
    flat = cost_claim(
        f"{MANY} pairs of {shortest:,} tokens against 1, at most {SLACK:g} times",
        ours=memory(OURS, shortest, MANY),
        peer=SLACK * ours[shortest],
        unit="MiB",
        required=1.0,
    )
    linear = cost_claim(
        f"{longest:,} tokens against {longest // shortest} times {shortest:,} tokens, at most {SLACK:g} times",
        ours=ours[longest],
        peer=SLACK * longest / shortest * ours[shortest],
        unit="MiB",
        required=1.0,
    )
    return [*claims, flat, linear]


if __name__ == "__main__":
    harness.run(benchmark, name="long_context", in_child=added_memory)
