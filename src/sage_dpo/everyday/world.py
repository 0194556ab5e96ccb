"""Splits of the questions. What a question asks decides its split, so that none occurs in two, in whatever words."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from itertools import count as counted
from itertools import islice, product

from sage_dpo.errors import ConfigError
from sage_dpo.everyday import lists, numbers, sentences
from sage_dpo.everyday.question import TRAINED_LEVELS, Family, Level, Question
from sage_dpo.records import Problem

FAMILIES: dict[str, Family] = {f.name: f for f in (*numbers.FAMILIES, *lists.FAMILIES, *sentences.FAMILIES)}
"""By name."""

_SHARES = {"start": range(15), "train": range(15, 60), "probe": range(60, 72), "test": range(72, 100)}
"""Split -> which hundredths of all questions. `start` is for a supervised stage before preferences."""

SPLITS = tuple(_SHARES)
_MAX_DRAWS = 500
"""Draws in a row without a new question, after which a family's level counts as spent."""


def generate_problems(
    split: str,
    count: int,
    *,
    seed: int,
    families: Sequence[str] = tuple(FAMILIES),
    levels: Sequence[Level] = TRAINED_LEVELS,
) -> list[Problem]:
    """Return problems of a split, the families and their levels in turn; no two ask the same.

    The first problems of a larger count are those of a smaller one. A family's level whose questions are all asked
    drops out, and the others fill up.

    Args:
        split: `start`, `train`, `probe` or `test`; they share no question, whatever their seeds.
        count: number of problems.
        seed: of the split's sequence.
        families, levels: which of them.

    Raises:
        ConfigError: an unknown split or family, a negative count, or fewer questions than asked for.
    """
    if split not in _SHARES:
        raise ConfigError(f"unknown split {split!r} of everyday questions, expected one of {', '.join(SPLITS)}")
    if count < 0:
        raise ConfigError(f"count is {count}, expected a non-negative integer")
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        raise ConfigError(f"unknown families {unknown} of everyday questions, expected some of {', '.join(FAMILIES)}")
    chosen = [(FAMILIES[name], level) for level, name in product(levels, families)]
    problems = list(islice(_in_turn(chosen, split, seed), count))
    if len(problems) < count:
        raise ConfigError(f"there are {len(problems):,} everyday questions of this kind, not {count:,}; ask for fewer")
    return problems


def _in_turn(chosen: Sequence[tuple[Family, Level]], split: str, seed: int) -> Iterator[Problem]:
    asked: set[str] = set()
    streams = [_questions(family, level, split, seed, asked) for family, level in chosen]
    while streams:
        for stream in list(streams):
            problem = next(stream, None)
            if problem is None:
                streams.remove(stream)
            else:
                yield problem


def _questions(family: Family, level: Level, split: str, seed: int, asked: set[str]) -> Iterator[Problem]:
    """Yield questions of a family's level whose keys are in the split and not in `asked`, until none are found."""
    rng = random.Random(f"{seed}/{split}/{family.name}/{level}")
    for index in counted():
        found = _next_question(family, level, split, rng, asked)
        if found is None:
            return
        yield Problem(
            id=f"everyday-{split}-{seed}-{family.name}-{level}-{index}",
            problem=found.text,
            answer=found.answer,
            metadata={"split": split, "family": family.name, "level": level.value},
        )


def _next_question(family: Family, level: Level, split: str, rng: random.Random, asked: set[str]) -> Question | None:
    for _ in range(_MAX_DRAWS):
        question = family.draws[level](rng)
        key = f"{family.name} {question.key}"
        if _hundredth(key) in _SHARES[split] and key not in asked:
            asked.add(key)
            return question
    return None


def _hundredth(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % 100
