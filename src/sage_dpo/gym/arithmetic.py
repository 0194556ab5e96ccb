"""Stories: the numbers behind a word problem, without the words. Pure and standard library only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

MAX_NUMBER = 99
"""Largest number with a token. Only wrong paths can reach beyond it; they are clamped here."""


class Operation(StrEnum):
    """What a step does to the number of objects."""

    ADD = "add"
    SUBTRACT = "subtract"
    MULTIPLY = "multiply"
    DIVIDE = "divide"

    @property
    def symbol(self) -> str:
        return _SYMBOLS[self]


_SYMBOLS = {Operation.ADD: "+", Operation.SUBTRACT: "-", Operation.MULTIPLY: "*", Operation.DIVIDE: "/"}
OPERATIONS = {symbol: operation for operation, symbol in _SYMBOLS.items()}
"""Symbol to operation, for parsing equations."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation with its operand."""

    operation: Operation
    operand: int


@dataclass(frozen=True, slots=True)
class Distractor:
    """A sentence whose number does not matter.

    Attributes:
        position: index of the step before which the sentence stands.
        number: the irrelevant number.
        same_object: whether it counts the objects of the story, in somebody else's hands; only such a number tempts.
    """

    position: int
    number: int
    same_object: bool


@dataclass(frozen=True, slots=True)
class Story:
    """The skeleton of a problem: a start, steps applied left to right, irrelevant numbers."""

    start: int
    steps: tuple[Step, ...]
    distractors: tuple[Distractor, ...] = ()

    def states(self) -> list[int]:
        """Return the number of objects before each step and at the end, `len(steps) + 1` values."""
        states = [self.start]
        for step in self.steps:
            states.append(apply(step, states[-1]))
        return states

    @property
    def answer(self) -> int:
        return self.states()[-1]

    def digest(self) -> int:
        """Return 32 bits that depend on every number of the story and on nothing else: no seed, no words."""
        parts = [str(self.start), *(f"{s.operation.symbol}{s.operand}" for s in self.steps)]
        parts += [f"d{d.position},{d.number},{int(d.same_object)}" for d in self.distractors]
        return int.from_bytes(hashlib.blake2b(" ".join(parts).encode(), digest_size=4).digest(), "big")


def apply(step: Step, state: int) -> int:
    """Return the result of a step, in [0, 99].

    A generated story stays within its track and divides without remainder. A wrong path may not: then a quotient loses
    its remainder, and results are clamped to the numbers that have a token.
    """
    match step.operation:
        case Operation.ADD:
            value = state + step.operand
        case Operation.SUBTRACT:
            value = state - step.operand
        case Operation.MULTIPLY:
            value = state * step.operand
        case Operation.DIVIDE:
            value = state // step.operand
    return clamp(value)


def crosses_column(step: Step, state: int) -> bool:
    """Return whether a written sum needs a carry, or a written difference a borrow."""
    units, other = state % 10, step.operand % 10
    if step.operation is Operation.ADD:
        return units + other >= 10
    return step.operation is Operation.SUBTRACT and units < other


def clamp(value: int) -> int:
    """Return the nearest number that has a token."""
    return min(max(value, 0), MAX_NUMBER)


def equation(state: int, step: Step, result: int) -> str:
    """Return one step as text, `12 + 7 = 19 .`"""
    return f"{state} {step.operation.symbol} {step.operand} = {result} ."


def final_sentence(answer: int) -> str:
    """Return the last sentence of a solution."""
    return f"The answer is \\boxed{{ {answer} }}"
