"""The benchmarks' files as their repositories publish them: names, fields, and how a row becomes a problem.

Answers are those of the Qwen2.5-Math harness: the named field, unescaped `$` removed, runs of white space one blank.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage_dpo.data.fields import Fields, MissingField
from sage_dpo.errors import DataError
from sage_dpo.records import Problem

_DOLLAR = re.compile(r"(?<!\\)\$")
_ANSWER_IN_QUESTION = re.compile(r"(.*?)\s*answers?:\s*(\S.*)", re.IGNORECASE | re.DOTALL)
"""Two rows of gaokao2023en have an empty answer, because it is stuck to the end of the question."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a published file looks like.

    Attributes:
        files: its paths below a folder of such files, in the order in which they are looked for.
        problem, answer, solution: expressions of `sage_dpo.data.fields`; no solution where there is none.
        id: id within the suite; `{number}` is the row number from 0, other names are fields of the row.
    """

    files: tuple[str, ...]
    problem: str = "problem"
    answer: str = "answer"
    solution: str = ""
    id: str = "{number}"

    def to_problem(self, name: str, number: int, row: Mapping[str, Any], where: str) -> Problem:
        """Return the problem of one row.

        Args:
            name: of the suite.
            number: of the row, from 0.
            row: as published.
            where: what a message calls it.

        Raises:
            DataError: a field is missing or empty.
        """
        fields = Fields(("problem", "answer", "solution"), dict(zip(_NAMES, self._sources, strict=True)))
        try:
            problem, answer = (_plain(fields.value(key, row)) for key in ("problem", "answer"))
            solution = fields.value("solution", row) if self.solution else None
            identifier = self.id.format(**{**row, "number": number}).removesuffix(".json")
        except (MissingField, KeyError) as error:
            raise DataError(
                f"{where}: lacks {error!s}, has {sorted(row)}; expected id, problem, answer, or the published fields "
                f"{', '.join(source for source in self._sources if source)}"
            ) from None
        stuck = _ANSWER_IN_QUESTION.fullmatch(problem)
        if not answer and stuck:
            problem, answer = stuck[1], stuck[2]
        known = {*_NAMES, *self._sources, "id", "question"}
        metadata = {key: value for key, value in row.items() if key not in known}
        if isinstance(solution, str):
            solution = solution.rpartition("####")[0].strip() if "####" in solution else solution.strip()
        try:
            return Problem(f"{name}/{identifier}", problem, _clean(answer), solution, {"source": name, **metadata})
        except DataError as error:
            raise DataError(f"{where}: {error}") from None

    @property
    def _sources(self) -> tuple[str, str, str]:
        return self.problem, self.answer, self.solution


_NAMES = ("problem", "answer", "solution")


def _plain(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _clean(answer: str) -> str:
    return " ".join(_DOLLAR.sub("", answer).split())
