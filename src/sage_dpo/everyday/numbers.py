"""Questions about bare numbers: sums, halves and percentages, products and quotients."""

from __future__ import annotations

import random

from sage_dpo.everyday.question import Draw, Family, Question, family, key_of


def _sum(*ranges: range) -> Draw:
    def draw(rng: random.Random) -> Question:
        numbers = [rng.choice(values) for values in ranges]
        rng.shuffle(numbers)
        text = f"What is {' + '.join(str(number) for number in numbers)}?"
        return Question(text, str(sum(numbers)), key_of(*sorted(numbers)))

    return draw


def _share(percents: tuple[int, ...], top: int) -> Draw:
    """A share of a number that comes out whole, numbers up to `top`."""

    def draw(rng: random.Random) -> Question:
        percent = rng.choice(percents)
        number = rng.choice([n for n in range(4, top + 1) if n * percent % 100 == 0])
        wordings = [f"What is {percent}% of {number}?"] + ([f"What is half of {number}?"] if percent == 50 else [])
        return Question(rng.choice(wordings), str(number * percent // 100), key_of(percent, number))

    return draw


def _times(factors: range, others: range) -> Draw:
    """A product of two factors, or one of them back from it."""

    def draw(rng: random.Random) -> Question:
        a, b = sorted((rng.choice(factors), rng.choice(others)))
        kind = rng.randrange(3)
        if kind == 0:
            return Question(f"What is {a} times {b}?", str(a * b), key_of(a, b))
        divisor, quotient = (a, b) if kind == 1 else (b, a)
        return Question(f"What is {a * b} divided by {divisor}?", str(quotient), key_of(a * b, "by", divisor))

    return draw


FAMILIES: tuple[Family, ...] = (
    family(
        "sums",
        "adds two numbers; hard: three",
        _sum(range(2, 10), range(2, 20)),
        _sum(range(10, 50), range(10, 50)),
        _sum(range(10, 50), range(10, 50), range(2, 30)),
    ),
    family(
        "shares",
        "half or 10 % of a number; hard: 20, 25 or 75 %",
        _share((50,), 100),
        _share((10, 50), 400),
        _share((20, 25, 75), 400),
    ),
    family(
        "times_table",
        "products and exact quotients, factors up to 9, one up to 20; hard: up to 40",
        _times(range(2, 10), range(2, 10)),
        _times(range(2, 10), range(10, 21)),
        _times(range(2, 10), range(21, 41)),
    ),
)
