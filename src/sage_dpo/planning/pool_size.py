"""How many pairs and distinct completions to expect of a pool that is not made yet. Pure arithmetic.

Completions are shared between pairs of one problem, and pairs are drawn again once the pool has been walked through;
each completion is run through the reference once, and through the scorer once per step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolSize:
    """Pairs of a pool, and the distinct completions in them; expectations, so fractions are fine."""

    pairs: float
    completions: float


def expected_pool(problems: float, samples: int, *, bound: int, mixed_share: float) -> PoolSize:
    """Return the pool to expect of `samples` completions for each problem.

    A problem is mixed if some of its samples are correct and some wrong; with a correct and b = K - a wrong ones it
    gives m = min(bound, a b) pairs of min(a, m) + min(b, m) distinct completions, as `pairs.build` spreads them. The
    mean is over a = 1 ... K - 1, all equally likely.

    Args:
        problems: asked.
        samples: K completions each, >= 1; a single one is paired with a reference solution.
        bound: most pairs of a problem.
        mixed_share: fraction of the problems that are mixed, in [0, 1].

    Interpretation: both the share and the equal likelihood are assumptions. Equal completions are paired once, so a
    policy that repeats itself gives fewer.

    Raises:
        ValueError: samples or bound below 1, or a share outside [0, 1].
    """
    if samples < 1 or bound < 1 or not 0.0 <= mixed_share <= 1.0:
        raise ValueError(
            f"a pool of {samples} samples, at most {bound} pairs a problem and a mixed share of {mixed_share}; "
            "expected at least 1 of both, and a share in [0, 1]"
        )
    splits = [(a, samples - a) for a in range(1, samples)] or [(1, 1)]
    pairs = [min(bound, a * b) for a, b in splits]
    completions = [min(a, m) + min(b, m) for (a, b), m in zip(splits, pairs, strict=True)]
    mixed = problems * mixed_share
    return PoolSize(mixed * sum(pairs) / len(splits), mixed * sum(completions) / len(splits))


def distinct_pairs(pool: PoolSize, drawn: float, *, keep_ratio: float = 1.0) -> float:
    """Return how many distinct pairs are kept when `drawn` candidates are taken from the pool and a fraction is kept.

    The pool is walked through in cycles, every pair once before any twice. After c whole cycles a pair has been kept at
    least once with probability 1 - (1 - gamma)^c.

    Args:
        pool: its size.
        drawn: candidates over all steps, with repetition.
        keep_ratio: gamma; 1 counts the candidates themselves.

    Interpretation: pairs are taken to be kept independently of whether they were before. A selector that prefers the
    same pairs each time keeps fewer distinct ones.
    """
    if not pool.pairs:
        return 0.0
    cycles, rest = divmod(drawn / pool.pairs, 1.0)
    kept = [1.0 - (1.0 - keep_ratio) ** count for count in (cycles, cycles + 1.0)]
    return pool.pairs * ((1.0 - rest) * kept[0] + rest * kept[1])


def distinct_completions(pool: PoolSize, pairs: float) -> float:
    """Return how many distinct completions `pairs` distinct pairs of the pool hold.

        C (1 - (1 - pairs / P)^(2 P / C))

    for C completions in P pairs: a completion is in 2 P / C of them on average, and is missed if all of these are.
    Without sharing (C = 2 P) that is 2 pairs.
    """
    if not pool.pairs:
        return 0.0
    share = min(1.0, pairs / pool.pairs)
    return pool.completions * (1.0 - math.pow(1.0 - share, 2.0 * pool.pairs / pool.completions))
