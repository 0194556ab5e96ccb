"""Rows in, validated `Problem` records out.

Trouble with the structure (not JSON, a missing field, a repeated id) stops the load with the place and the remedy.
Trouble with one row's content (an empty answer) excludes that row and is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage_dpo.data.rows import read_rows
from sage_dpo.errors import DataError
from sage_dpo.records import Problem

FIELDS = ("id", "problem", "answer", "solution")


@dataclass(frozen=True, slots=True)
class ExcludedRow:
    """A row that was left out: where it stands, its id, and why (`empty_answer`, `answer_not_text`, ...)."""

    place: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """Loaded problems in the order of the source, and the rows left out."""

    problems: list[Problem] = field(default_factory=list)
    excluded: list[ExcludedRow] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Number of excluded rows by reason."""
        return dict(Counter(row.reason for row in self.excluded))


def load_problems(
    source: str | Path | Iterable[Mapping[str, Any]], fields: Mapping[str, str] | None = None
) -> ProblemSet:
    """Load problems from JSON lines, Parquet, a folder of these, a saved or open `datasets` Dataset, or rows.

    A GSM8K answer (`... #### 72`) is taken apart into solution and answer, an answer that is one `\\boxed{...}` is
    unwrapped, a number becomes text. Columns that are not a field go to `metadata`; a `metadata` column (JSON text or
    an object) is merged into it. Rows are numbered as ids if the first has no id column.

    Args:
        source: path, or any iterable of mappings.
        fields: column names that differ from `id`, `problem`, `answer`, `solution`: `{"problem": "question"}`.

    Raises:
        DataError: see the module's docstring; the message names the place, what was got and the remedy.
    """
    columns = _columns(fields or {})
    result = ProblemSet()
    places: dict[str, str] = {}
    numbers_ids: bool | None = None
    for number, (place, row) in enumerate(read_rows(source), start=1):
        if numbers_ids is None:
            numbers_ids = columns["id"] not in row and "id" not in (fields or {})
        _require_fields(row, columns, place, fields or {}, numbers_ids)
        identifier = f"row-{number}" if numbers_ids else _identifier(row[columns["id"]], place)
        if identifier in places:
            raise DataError(
                f"{place}: the id {identifier!r} was used before, at {places[identifier]}; ids must be unique, so "
                "rename one, remove one, or map another column to id"
            )
        places[identifier] = place
        problem = _to_problem(identifier, row, columns)
        if isinstance(problem, Problem):
            result.problems.append(problem)
        else:
            result.excluded.append(ExcludedRow(place, identifier, problem))
    return result


def _columns(fields: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise DataError(
            f"fields has the keys {unknown}, expected some of {', '.join(FIELDS)}; "
            "the key is ours and the value is your column, as in fields={'problem': 'question'}"
        )
    return {name: fields.get(name, name) for name in FIELDS}


def _require_fields(
    row: Mapping[str, Any], columns: Mapping[str, str], place: str, fields: Mapping[str, str], numbers_ids: bool
) -> None:
    optional = {"solution"} - set(fields) | ({"id"} if numbers_ids else set())
    for name in FIELDS:
        if name not in optional and columns[name] not in row:
            present = ", ".join(str(column) for column in row) or "none"
            raise DataError(
                f"{place}: the field {columns[name]!r} is missing; the columns present are {present}. If one of them "
                f"is the {name}, say so: fields={{{name!r}: 'COLUMN'}} (command line: --field {name}=COLUMN)"
            )


def _identifier(value: Any, place: str) -> str:
    if value is None or isinstance(value, bool | float) or not str(value).strip():
        raise DataError(f"{place}: the id is {value!r}, expected a non-empty text or an integer; give this row an id")
    return str(value)


def _to_problem(identifier: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> Problem | str:
    """Return the problem, or the reason why the row is excluded."""
    texts = {name: _text(row[columns[name]]) for name in ("problem", "answer")}
    for name, text in texts.items():
        if text is None:
            return f"{name}_not_text"
        if not text.strip():
            return f"empty_{name}"
    solution = _text(row.get(columns["solution"]))
    answer, worked = _split_answer(str(texts["answer"]))
    if not answer:
        return "empty_answer"
    used = set(columns.values())
    metadata = {str(name): value for name, value in row.items() if name not in used and name != "metadata"}
    return Problem(
        identifier, str(texts["problem"]).strip(), answer, solution or worked, metadata | _nested(row.get("metadata"))
    )


def _text(value: Any) -> str | None:
    """Return text for text and numbers, '' for null, and `None` for what is neither (lists, objects, booleans)."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _split_answer(answer: str) -> tuple[str, str | None]:
    """`6*7 = 42\\n#### 42` -> (`42`, the whole); `\\boxed{42}` -> (`42`, None)."""
    answer = answer.strip()
    worked, marker, final = answer.rpartition("####")
    if marker:
        return final.strip(), answer if worked.strip() else None
    if answer.startswith(r"\boxed{") and answer.endswith("}"):
        inner = answer[len(r"\boxed{") : -1]
        depths = [inner[:end].count("{") - inner[:end].count("}") for end in range(len(inner) + 1)]
        if min(depths) >= 0 and depths[-1] == 0:
            return inner.strip(), None
    return answer, None


def _nested(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return {"metadata": value}
    if isinstance(value, Mapping):
        return dict(value)
    return {} if value is None else {"metadata": value}
