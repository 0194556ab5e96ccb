"""What a family of questions is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How hard a question is. Training and probe problems are easy and medium; hard ones are only tested."""

    EASY = "easy"
    MEDIUM = "medium"
    HARD = "hard"


TRAINED_LEVELS = (Level.EASY, Level.MEDIUM)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and what it asks apart from the words.

    Attributes:
        text: as asked.
        answer: a number.
        key: what decides the answer. Two questions of a family with one key are the same question, whatever the wording
            or the order of a list; it decides the split.
    """

    text: str
    answer: str
    key: str


Draw = Callable[[random.Random], Question]


@dataclass(frozen=True, slots=True)
class Family:
    """Questions of one kind.

    Attributes:
        name: of the family, and of its suite.
        description: one line for people.
        draws: level -> draws a question with the given generator.
    """

    name: str
    description: str
    draws: dict[Level, Draw]


def family(name: str, description: str, easy: Draw, medium: Draw, hard: Draw) -> Family:
    """Return a family by what it draws at each level."""
    return Family(name, description, {Level.EASY: easy, Level.MEDIUM: medium, Level.HARD: hard})


def key_of(*parts: object) -> str:
    """Return a key that depends on every part and on their order."""
    return " ".join(str(part) for part in parts)


def joined(items: list[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
