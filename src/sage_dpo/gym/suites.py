"""Eight held-out suites of the gym: graded difficulty, greater length, irrelevant numbers, single misconceptions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sage_dpo.errors import ConfigError, SuiteSizeError
from sage_dpo.gym.arithmetic import Operation, Story
from sage_dpo.gym.misconceptions import find_contexts
from sage_dpo.gym.world import StoryShape, generate_problem
from sage_dpo.records import Problem

SUITE_SEED = 20260101
"""Constant, so that results of different runs compare."""

_MAX_DRAWS_PER_PROBLEM = 20


@dataclass(frozen=True, slots=True)
class Suite:
    """One evaluation suite.

    Attributes:
        name: of the suite and of its split of the world.
        expected_size: number of problems; loading another number raises.
        shape: which stories it draws.
        misconceptions: if not empty, every problem offers at least one of these and no other.
        description: one line for people.
    """

    name: str
    expected_size: int
    shape: StoryShape
    misconceptions: frozenset[str] = frozenset()
    description: str = ""

    def accepts(self, story: Story) -> bool:
        """Return whether a story of the right shape belongs to the suite."""
        if not self.misconceptions:
            return True
        offered = {name for names in find_contexts(story) for name in names}
        return bool(offered) and offered <= self.misconceptions


def _single(name: str, misconceptions: set[str], weights: dict[Operation, float], description: str) -> Suite:
    shape = StoryShape(steps=(2, 3, 4), weights=weights, tempting_rate=0.0)
    return Suite(name, 200, shape, frozenset(misconceptions), description)


_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE = Operation
SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("short", 200, StoryShape(steps=(1, 2)), description="1-2 steps"),
        Suite("medium", 200, StoryShape(steps=(3, 4)), description="3-4 steps"),
        Suite("long", 200, StoryShape(steps=(5, 6)), description="5-6 steps, the longest in training"),
        Suite("longer", 200, StoryShape(steps=(7, 8)), description="7-8 steps, longer than in training"),
        Suite(
            "distractors",
            200,
            StoryShape(steps=(2, 3, 4), tempting_rate=1.0, harmless_rate=0.5),
            description="2-4 steps, always an irrelevant number of the same object",
        ),
        _single(
            "products",
            {"odd_product", "even_product_slip"},
            {_ADD: 0.2, _SUBTRACT: 0.2, _MULTIPLY: 0.5, _DIVIDE: 0.1},
            "2-4 steps; misconceptions about products and no others",
        ),
        _single(
            "carries",
            {"forgotten_carry"},
            {_ADD: 0.6, _SUBTRACT: 0.25, _DIVIDE: 0.15},
            "2-4 steps; forgotten carries and no other misconception",
        ),
        _single(
            "borrows",
            {"smaller_from_larger"},
            {_ADD: 0.25, _SUBTRACT: 0.6, _DIVIDE: 0.15},
            "2-4 steps; borrows and no other misconception",
        ),
    )
}


@cache
def _problems(name: str) -> tuple[Problem, ...]:
    suite = SUITES[name]
    problems: dict[str, Problem] = {}
    for index in range(suite.expected_size * _MAX_DRAWS_PER_PROBLEM):
        if len(problems) == suite.expected_size:
            break
        problem = generate_problem(name, index, seed=SUITE_SEED, shape=suite.shape, accept=suite.accepts)
        problems.setdefault(problem.problem, problem)
    return tuple(problems.values())


def load_suite(name: str) -> list[Problem]:
    """Return the problems of a suite; no two have the same text.

    Raises:
        ConfigError: unknown name.
        SuiteSizeError: the number of problems differs from `expected_size`.
    """
    if name not in SUITES:
        raise ConfigError(f"unknown gym suite {name!r}, expected one of {', '.join(SUITES)}")
    problems = list(_problems(name))
    if len(problems) != SUITES[name].expected_size:
        raise SuiteSizeError(
            f"gym suite {name!r} has {len(problems)} problems, its record states {SUITES[name].expected_size}; "
            "the world's generator and the record disagree, mend the one that changed"
        )
    return problems
