"""Everyday questions: answers worked out again from the text alone, and by hand."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from sage_dpo.everyday.question import Level, joined
from sage_dpo.everyday.world import FAMILIES


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def amounts(text: str) -> dict[str, int]:
    return {name: int(n) for name, n in re.findall(r"(\w+) has (\d+)", text)}


def share_of(text: str) -> str:
    if "half" in text:
        return str(numbers(text)[0] // 2)
    percent, number = numbers(text)
    assert percent * number % 100 == 0
    return str(percent * number // 100)


def times_of(text: str) -> str:
    first, second = numbers(text)
    if "times" in text:
        return str(first * second)
    assert first % second == 0
    return str(first // second)


SOLVERS: dict[str, Callable[[str], str]] = {
    "sums": lambda text: str(sum(numbers(text))),
    "shares": share_of,
    "times_table": times_of,
    "smallest": lambda text: str(min(numbers(text))),
    "largest": lambda text: str(max(numbers(text))),
    "ages": lambda text: re.findall(r"is (\d+) years old", text)[0],
    "how_many": lambda text: str(amounts(text)[text.split()[-2]]),
}


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_answer_follows_from_the_text(name: str, level: Level) -> None:
    rng = random.Random(f"{name}/{level}")
    for _ in range(200):
        question = FAMILIES[name].draws[level](rng)
        assert question.answer == SOLVERS[name](question.text), question.text
        assert int(question.answer) > 0


def test_every_family_has_three_levels_and_a_solver() -> None:
    assert set(FAMILIES) == set(SOLVERS)
    assert all(set(family.draws) == set(Level) for family in FAMILIES.values())


@pytest.mark.parametrize(("items", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_lists_are_told_in_english(items: list[str], text: str) -> None:
    assert joined(items) == text
