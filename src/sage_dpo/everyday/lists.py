"""Questions about a list of numbers: its smallest, its largest."""

from __future__ import annotations

import random
from collections.abc import Callable

from sage_dpo.everyday.question import Draw, Family, Question, family, key_of


def _extreme(name: str, pick: Callable[[list[int]], int], count: int, top: int) -> Draw:
    def draw(rng: random.Random) -> Question:
        numbers = rng.sample(range(1, top), count)
        text = f"What is the {name} of these numbers: {', '.join(str(number) for number in numbers)}?"
        return Question(text, str(pick(numbers)), key_of(*sorted(numbers)))

    return draw


FAMILIES: tuple[Family, ...] = (
    family(
        "smallest",
        "the smallest of 3 or 4 numbers; hard: of 5 below 100",
        _extreme("smallest", min, 3, 20),
        _extreme("smallest", min, 4, 50),
        _extreme("smallest", min, 5, 100),
    ),
    family(
        "largest",
        "the largest of 3 or 4 numbers; hard: of 5 below 100",
        _extreme("largest", max, 3, 20),
        _extreme("largest", max, 4, 50),
        _extreme("largest", max, 5, 100),
    ),
)
