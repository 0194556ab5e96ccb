"""Questions about a few sentences: somebody's age, how many somebody has, beside other numbers."""

from __future__ import annotations

import random

from sage_dpo.everyday.question import Draw, Family, Question, family, joined, key_of
from sage_dpo.everyday.words import NAMES, THINGS

_BESIDE = (
    "{name} moved here in {year}",
    "{name} lives at number {small}",
    "{name} cycles {small} km a week",
    "{name} owns {small} books",
)


def _age(beside: int) -> Draw:
    """An age beside so many other numbers of the same person, one of them a year."""

    def draw(rng: random.Random) -> Question:
        name, age, year = rng.choice(NAMES), rng.randint(18, 79), rng.randint(1990, 2019)
        small = rng.sample([n for n in range(2, 80) if n != age], len(_BESIDE))
        chosen = [0, *rng.sample(range(1, len(_BESIDE)), beside - 1)]
        facts = [_BESIDE[index].format(name=name, year=year, small=small[index]) for index in chosen]
        rng.shuffle(facts)
        facts.insert(rng.randint(0, len(facts)), f"{name} is {age} years old")
        text = f"{'. '.join(facts)}. How old is {name}?"
        return Question(text, str(age), key_of(name, age, year, *(small[index] for index in chosen[1:])))

    return draw


def _how_many(people: int, top: int) -> Draw:
    """What one of several people has; no two have equally many."""

    def draw(rng: random.Random) -> Question:
        amounts = dict(zip(rng.sample(NAMES, people), rng.sample(range(2, top), people), strict=True))
        name, thing = rng.choice(list(amounts)), rng.choice(THINGS)
        story = joined([f"{who} has {count} {thing}" for who, count in amounts.items()])
        text = f"{story}. How many {thing} does {name} have?"
        return Question(text, str(amounts[name]), key_of(name, thing, *sorted(amounts.items())))

    return draw


FAMILIES: tuple[Family, ...] = (
    family("ages", "an age beside 2 or 3 other numbers; hard: beside 4", _age(2), _age(3), _age(4)),
    family(
        "how_many", "what one of 2 or 3 people has; hard: of 4", _how_many(2, 20), _how_many(3, 20), _how_many(4, 50)
    ),
)
