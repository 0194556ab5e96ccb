"""Evaluation suites of the everyday questions: one of each family at the trained levels, and one of all at the hard."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sage_dpo.errors import ConfigError, SuiteSizeError
from sage_dpo.everyday.question import TRAINED_LEVELS, Family, Level
from sage_dpo.everyday.world import FAMILIES, generate_problems
from sage_dpo.records import Problem

SUITE_SEED = 20260301
"""Constant, so that results of different runs compare."""

HARDER = "harder"


@dataclass(frozen=True, slots=True)
class EverydaySuite:
    """One evaluation suite, of questions that no other split has.

    Attributes:
        name: a family's, or `harder`.
        expected_size: number of problems; loading another number raises.
        families: whose questions it asks, in turn.
        levels: at which levels, in turn.
        description: one line for people.
    """

    name: str
    expected_size: int
    families: tuple[str, ...]
    levels: tuple[Level, ...]
    description: str


_SIZES = {"sums": 100, "shares": 60, "times_table": 80}
"""Of families with few questions; the others' are 120."""


def _suite(family: Family) -> EverydaySuite:
    return EverydaySuite(family.name, _SIZES.get(family.name, 120), (family.name,), TRAINED_LEVELS, family.description)


SUITES: dict[str, EverydaySuite] = {
    **{name: _suite(family) for name, family in FAMILIES.items()},
    HARDER: EverydaySuite(HARDER, 315, tuple(FAMILIES), (Level.HARD,), "every family, at a level never trained on"),
}
"""By name; 1,035 problems in all."""


@cache
def _problems(name: str) -> tuple[Problem, ...]:
    suite = SUITES[name]
    problems = generate_problems(
        "test", suite.expected_size, seed=SUITE_SEED, families=suite.families, levels=suite.levels
    )
    return tuple(problems)


def load_suite(name: str) -> list[Problem]:
    """Return the problems of a suite; no two ask the same.

    Raises:
        ConfigError: unknown name.
        SuiteSizeError: the number of problems differs from `expected_size`.
    """
    if name not in SUITES:
        raise ConfigError(f"unknown suite {name!r} of everyday questions, expected one of {', '.join(SUITES)}")
    problems = list(_problems(name))
    if len(problems) != SUITES[name].expected_size:
        raise SuiteSizeError(
            f"suite {name!r} of everyday questions has {len(problems)} problems, its record states "
            f"{SUITES[name].expected_size}; the generator and the record disagree, mend the one that changed"
        )
    return problems
