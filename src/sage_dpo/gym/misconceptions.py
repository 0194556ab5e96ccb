"""Known misconceptions: when each applies, what wrong rule it follows, how often, and how to find it in a text.

A solver with misconceptions is the source of the base policy's training data. Because contexts, rules and
prevalences are written down here, one can later ask which errors a selector gathered, with exact labels.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from sage_dpo.gym.arithmetic import (
    OPERATIONS,
    Operation,
    Step,
    Story,
    apply,
    clamp,
    crosses_column,
    equation,
    final_sentence,
)

COUNTS_DISTRACTOR = "counts_distractor"
SLIP = "slip"
"""Diagnosis of a wrong result that no misconception explains."""
STRUCTURE = "structure"
"""Diagnosis of a solution that skips, repeats or misreads a step, or states another answer than it derived."""

SLIP_RATE = 0.01
SLIPS = (-10, -1, 1, 10)


@dataclass(frozen=True, slots=True)
class Misconception:
    """A wrong rule with a context.

    Attributes:
        name: identifier used in metadata and reports.
        applies: `(step, state) -> bool`, whether the step offers the misconception.
        wrong_result: `(step, state) -> int`, what its holder writes.
        prevalence: probability of the wrong rule, given the context, in the base policy's training data.
        rationale: where the rule comes from.
        two_digit_prevalence: replaces `prevalence` where the operand has two digits, so that one misconception is
            rare in easy surroundings and habitual in harder ones.
    """

    name: str
    applies: Callable[[Step, int], bool]
    wrong_result: Callable[[Step, int], int]
    prevalence: float
    rationale: str
    two_digit_prevalence: float | None = None

    def prevalence_of(self, step: Step) -> float:
        """Return the probability of the wrong rule at a step that offers this misconception."""
        if step.operand >= 10 and self.two_digit_prevalence is not None:
            return self.two_digit_prevalence
        return self.prevalence


def _is_odd_product(step: Step, state: int) -> bool:
    return step.operation is Operation.MULTIPLY and state % 2 == 1


def _is_even_product(step: Step, state: int) -> bool:
    return step.operation is Operation.MULTIPLY and state % 2 == 0


def _needs_carry(step: Step, state: int) -> bool:
    return step.operation is Operation.ADD and crosses_column(step, state)


def _needs_borrow(step: Step, state: int) -> bool:
    return step.operation is Operation.SUBTRACT and state > step.operand and crosses_column(step, state)


def _sum_instead(step: Step, state: int) -> int:
    return clamp(state + step.operand)


def _one_group_too_few(step: Step, state: int) -> int:
    return clamp(state * (step.operand - 1))


def _sum_without_carry(step: Step, state: int) -> int:
    return clamp(state + step.operand - 10)


def _smaller_from_larger_digit(step: Step, state: int) -> int:
    tens = state // 10 - step.operand // 10
    units = abs(state % 10 - step.operand % 10)
    return clamp(10 * tens + units)


MISCONCEPTIONS: tuple[Misconception, ...] = (
    Misconception(
        "odd_product",
        _is_odd_product,
        _sum_instead,
        0.75,
        "Adds where it should multiply (operation confusion; Miller & Paredes 1990), here bound to odd left sides.",
    ),
    Misconception(
        "even_product_slip",
        _is_even_product,
        _one_group_too_few,
        0.35,
        "Answers with the neighbouring entry of the multiplication table (operand error; Campbell & Graham 1985).",
    ),
    Misconception(
        "forgotten_carry",
        _needs_carry,
        _sum_without_carry,
        0.3,
        "Adds the digits of each column and drops the carry (Brown & Burton 1978).",
        two_digit_prevalence=0.6,
    ),
    Misconception(
        "smaller_from_larger",
        _needs_borrow,
        _smaller_from_larger_digit,
        0.4,
        "Subtracts the smaller digit from the larger whichever is on top, to avoid the borrow (Brown & Burton 1978).",
        two_digit_prevalence=0.7,
    ),
)
"""Misconceptions about one step's result. Their contexts exclude each other."""

COUNTS_DISTRACTOR_PREVALENCE = 0.4
"""Adds an irrelevant number of the same object (irrelevant-number problems; Littlefield & Rieser 1993)."""

NAMES: tuple[str, ...] = (*(m.name for m in MISCONCEPTIONS), COUNTS_DISTRACTOR)


def misconception_at(step: Step, state: int) -> Misconception | None:
    """Return the misconception whose context this step is, if any."""
    return next((m for m in MISCONCEPTIONS if m.applies(step, state)), None)


def find_contexts(story: Story) -> list[list[str]]:
    """Return, per step of the correct path, the names of the misconceptions it offers.

    A tempting distractor counts for the step before which it stands.
    """
    tempting = {d.position for d in story.distractors if d.same_object}
    contexts = []
    for index, (step, state) in enumerate(zip(story.steps, story.states(), strict=False)):
        found = misconception_at(step, state)
        contexts.append(([COUNTS_DISTRACTOR] if index in tempting else []) + ([found.name] if found else []))
    return contexts


def solve(story: Story) -> str:
    """Return the correct worked solution."""
    states = story.states()
    lines = [equation(a, step, b) for step, a, b in zip(story.steps, states, states[1:], strict=False)]
    return " ".join([*lines, final_sentence(states[-1])])


def solve_with_misconceptions(story: Story, rng: random.Random) -> str:
    """Return a solution in which every misconception occurs with its prevalence, and a slip now and then."""
    state, lines = story.start, []
    for step in _steps_taken(story, rng):
        result = _flawed_result(step, state, rng)
        lines.append(equation(state, step, result))
        state = result
    return " ".join([*lines, final_sentence(state)])


def _steps_taken(story: Story, rng: random.Random) -> list[Step]:
    taken = []
    for index, step in enumerate(story.steps):
        for distractor in story.distractors:
            is_tempting = distractor.position == index and distractor.same_object
            if is_tempting and rng.random() < COUNTS_DISTRACTOR_PREVALENCE:
                taken.append(Step(Operation.ADD, distractor.number))
        taken.append(step)
    return taken


def _flawed_result(step: Step, state: int, rng: random.Random) -> int:
    found = misconception_at(step, state)
    if found is not None:
        return found.wrong_result(step, state) if rng.random() < found.prevalence_of(step) else apply(step, state)
    result = apply(step, state)
    return clamp(result + rng.choice(SLIPS)) if rng.random() < SLIP_RATE else result


_EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
_BOXED = re.compile(r"\\boxed\{ ?(\d+) ?\}")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The first wrong step of a completion.

    Attributes:
        step: index into the story's steps; `len(steps)` if all are right and only the final sentence is not.
        cause: a name of `NAMES`, `slip` or `structure`.
    """

    step: int
    cause: str


def diagnose(story: Story, text: str) -> Diagnosis | None:
    """Return the first wrong step of a completion and its cause, or `None` if every step and the answer are right."""
    equations = [(int(a), Step(OPERATIONS[o], int(k)), int(b)) for a, o, k, b in _EQUATION.findall(text)]
    states = story.states()
    for index, expected in enumerate(story.steps):
        if index >= len(equations):
            return Diagnosis(index, STRUCTURE)
        left, step, result = equations[index]
        if left != states[index] or step != expected:
            return Diagnosis(index, _cause_of_other_step(story, index, left == states[index], step))
        if result != states[index + 1]:
            return Diagnosis(index, _cause_of_wrong_result(step, left, result))
    is_answered = _stated_answer(text) == states[-1] and len(equations) == len(story.steps)
    return None if is_answered else Diagnosis(len(story.steps), STRUCTURE)


def _stated_answer(text: str) -> int | None:
    """Return the number in the first `\\boxed{}`, or `None`."""
    boxed = _BOXED.search(text)
    return None if boxed is None else int(boxed.group(1))


def _cause_of_other_step(story: Story, index: int, is_left_right: bool, step: Step) -> str:
    tempting = {d.number for d in story.distractors if d.same_object and d.position == index}
    counts_it = is_left_right and step.operation is Operation.ADD and step.operand in tempting
    return COUNTS_DISTRACTOR if counts_it else STRUCTURE


def _cause_of_wrong_result(step: Step, state: int, result: int) -> str:
    found = misconception_at(step, state)
    return found.name if found is not None and found.wrong_result(step, state) == result else SLIP
