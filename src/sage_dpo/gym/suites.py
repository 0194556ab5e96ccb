"""Eight held-out suites of the gym: graded difficulty, greater length, irrelevant numbers, single misconceptions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sage_dpo.errors import ConfigError, SuiteSizeError
from sage_dpo.gym.arithmetic import Operation, Story
from sage_dpo.gym.misconceptions import find_contexts
from sage_dpo.gym.world import HARD, STANDARD, StoryShape, generate_problem, track_of
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


_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE = Operation


def _suites(
    short: tuple[int, ...],
    medium: tuple[int, ...],
    long: tuple[int, ...],
    longer: tuple[int, ...],
    around: tuple[int, ...],
) -> dict[str, Suite]:
    """Return the eight suites of a track, by the numbers of steps of each; `around` is that of the last four."""

    def by_length(name: str, steps: tuple[int, ...], note: str = "") -> Suite:
        return Suite(name, 200, StoryShape(steps=steps), description=f"{steps[0]}-{steps[-1]} steps{note}")

    def single(name: str, misconceptions: set[str], weights: dict[Operation, float], what: str) -> Suite:
        shape = StoryShape(steps=around, weights=weights, tempting_rate=0.0)
        return Suite(name, 200, shape, frozenset(misconceptions), f"{around[0]}-{around[-1]} steps; {what}")

    suites = (
        by_length("short", short),
        by_length("medium", medium),
        by_length("long", long, ", the longest in training"),
        by_length("longer", longer, ", longer than in training"),
        Suite(
            "distractors",
            200,
            StoryShape(steps=around, tempting_rate=1.0, harmless_rate=0.5),
            description=f"{around[0]}-{around[-1]} steps, always an irrelevant number of the same object",
        ),
        single(
            "products",
            {"odd_product", "even_product_slip"},
            {_ADD: 0.2, _SUBTRACT: 0.2, _MULTIPLY: 0.5, _DIVIDE: 0.1},
            "misconceptions about products and no others",
        ),
        single(
            "carries",
            {"forgotten_carry"},
            {_ADD: 0.6, _SUBTRACT: 0.25, _DIVIDE: 0.15},
            "forgotten carries and no other misconception",
        ),
        single(
            "borrows",
            {"smaller_from_larger"},
            {_ADD: 0.25, _SUBTRACT: 0.6, _DIVIDE: 0.15},
            "borrows and no other misconception",
        ),
    )
    return {suite.name: suite for suite in suites}


SUITES: dict[str, dict[str, Suite]] = {
    STANDARD: _suites((1, 2), (3, 4), (5, 6), (7, 8), around=(2, 3, 4)),
    HARD: _suites((2, 3), (4, 5), (6, 7), (8, 9), around=(3, 4, 5)),
}
"""Track -> name -> suite."""


def suites_of(track: str) -> dict[str, Suite]:
    """Return a track's suites by name; `ConfigError` for an unknown track."""
    track_of(track)
    return SUITES[track]


@cache
def _problems(name: str, track: str) -> tuple[Problem, ...]:
    suite = SUITES[track][name]
    problems: dict[str, Problem] = {}
    for index in range(suite.expected_size * _MAX_DRAWS_PER_PROBLEM):
        if len(problems) == suite.expected_size:
            break
        problem = generate_problem(name, index, seed=SUITE_SEED, track=track, shape=suite.shape, accept=suite.accepts)
        problems.setdefault(problem.problem, problem)
    return tuple(problems.values())


def load_suite(name: str, track: str = STANDARD) -> list[Problem]:
    """Return the problems of a suite; no two have the same text.

    Raises:
        ConfigError: unknown name or track.
        SuiteSizeError: the number of problems differs from `expected_size`.
    """
    known = suites_of(track)
    if name not in known:
        raise ConfigError(f"unknown gym suite {name!r}, expected one of {', '.join(known)}")
    problems = list(_problems(name, track))
    if len(problems) != known[name].expected_size:
        raise SuiteSizeError(
            f"gym suite {name!r} has {len(problems)} problems, its record states {known[name].expected_size}; "
            "the world's generator and the record disagree, mend the one that changed"
        )
    return problems
