"""Exact duplicates after normalisation: the first stays, the rest are counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sage_dpo.records import Problem

_DELIMITER_SIZES = re.compile(r"\\(?:left|right)(?![a-z])")
_FRACTIONS = re.compile(r"\\[dt]frac(?![a-z])")
_ANSWER_NOISE = re.compile(r"[{}$]|\.$")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A removed problem, the one kept in its place, and whether their answers are spelled differently (a conflict)."""

    id: str
    kept_id: str
    answer: str
    kept_answer: str
    is_conflict: bool


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """Problems without duplicates, in order, and what was removed."""

    problems: list[Problem] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)

    @property
    def conflicts(self) -> list[Duplicate]:
        """Removed problems whose text is kept with another answer: look at them, one answer is probably wrong."""
        return [duplicate for duplicate in self.duplicates if duplicate.is_conflict]

    @property
    def counts(self) -> dict[str, int]:
        """`duplicate` and `conflicting_duplicate`, each removed problem in one of them; empty if there are none."""
        conflicting = len(self.conflicts)
        counts = {"duplicate": len(self.duplicates) - conflicting, "conflicting_duplicate": conflicting}
        return {reason: count for reason, count in counts.items() if count}


def normalize_statement(text: str) -> str:
    """Lower case, no white space, no `\\left` and `\\right`, `\\dfrac` and `\\tfrac` read as `\\frac`."""
    text = _DELIMITER_SIZES.sub("", text.lower())
    return _SPACES.sub("", _FRACTIONS.sub(r"\\frac", text))


def have_same_answer(first: Problem, second: Problem) -> bool:
    """Whether two gold answers are spelled alike, braces, `$` and a final period aside (`\\frac13`, `\\frac{1}{3}`)."""
    keys = [_ANSWER_NOISE.sub("", normalize_statement(problem.answer)) for problem in (first, second)]
    return keys[0] == keys[1]


def deduplicate(problems: Sequence[Problem]) -> Deduplicated:
    """Keep the first problem of each normalised text. Linear; the order of the input is kept."""
    result = Deduplicated()
    kept: dict[str, Problem] = {}
    for problem in problems:
        first = kept.setdefault(normalize_statement(problem.problem), problem)
        if first is problem:
            result.problems.append(problem)
            continue
        is_conflict = not have_same_answer(first, problem)
        result.duplicates.append(Duplicate(problem.id, first.id, problem.answer, first.answer, is_conflict))
    return result
