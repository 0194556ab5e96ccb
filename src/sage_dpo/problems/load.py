"""Rows in, validated `Problem` records out.

Trouble with the structure (not JSON, a missing field, a repeated id) stops the load with the place and the remedy.
Trouble with one row's content (an empty answer) excludes that row and is counted.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage_dpo.data.fields import Fields, MissingField
from sage_dpo.data.messages import read_side
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
    source: str | Path | Iterable[Mapping[str, Any]], fields: Mapping[str, str | None] | None = None
) -> ProblemSet:
    """Load problems from JSON lines, JSON, Parquet, a folder of these, a saved or open `datasets` Dataset, or rows.

    A GSM8K answer (`... #### 72`) is taken apart into solution and answer, an answer that is one `\\boxed{...}` is
    unwrapped, a number becomes text, a list of one item is that item, a list of one user message is its content.
    Columns that are not a field go to `metadata`; a `metadata` column (JSON text or an object) is merged into it. Rows
    are numbered as ids if the first has no id column; the same row again under the same id is excluded.

    Args:
        source: path, or any iterable of mappings.
        fields: columns that differ from `id`, `problem`, `answer`, `solution`: `{"problem": "question"}`,
            `{"answer": "reward_model.ground_truth"}`, `{"answer": "last_box(solution)"}`; see `sage_dpo.data.fields`.

    Raises:
        DataError: see the module's docstring, or not one problem; the message names the place, what was got and the
            remedy.
    """
    columns = Fields(FIELDS, fields)
    result = ProblemSet()
    seen: dict[str, tuple[str, Problem | str]] = {}
    numbers_ids: bool | None = None
    for number, (place, row) in enumerate(read_rows(source), start=1):
        if numbers_ids is None:
            numbers_ids = not columns.has("id", row)
        identifier = f"row-{number}" if numbers_ids else _identifier(_value("id", row, columns, place), place)
        problem = _to_problem(identifier, row, columns, place)
        if identifier in seen:
            if seen[identifier][1] != problem:
                raise DataError(
                    f"{place}: the id {identifier!r} was used before, at {seen[identifier][0]}; ids must be unique, so "
                    "rename one, or map another column to id (--field id=COLUMN; --field id= numbers the rows)"
                )
            problem = "duplicate_row"
        seen.setdefault(identifier, (place, problem))
        if isinstance(problem, Problem):
            result.problems.append(problem)
        else:
            result.excluded.append(ExcludedRow(place, identifier, problem))
    if not result.problems:
        where = source if isinstance(source, str | Path) else "the data"
        reasons = f", excluded: {result.counts} (first at {result.excluded[0].place})" if result.excluded else ""
        raise DataError(f"{where}: 0 problems{reasons}; give a file with one problem a row, see docs/data.md")
    return result


def _value(name: str, row: Mapping[str, Any], columns: Fields, place: str) -> Any:
    try:
        return columns.value(name, row)
    except MissingField as error:
        present = ", ".join(str(column) for column in row) or "none"
        likely = _likely(name, row)
        raise DataError(
            f"{place}: the field {str(error)!r} is missing; the columns present are {present}. If one of them is the "
            f"{name}, say so: fields={{{name!r}: {likely!r}}} (command line: --field {name}={likely})"
        ) from None


_LIKELY = {
    "problem": ("question", "prompt", "instruction", "query", "0.value"),
    "answer": ("reward_model.ground_truth", "final_answer", "gold", "ground_truth", "last_box(solution)"),
}


def _likely(name: str, row: Mapping[str, Any]) -> str:
    """Return the expression that people's files most often have for a field, if the row has it; else a blank one."""
    for expression in _LIKELY.get(name, ()):
        try:
            if Fields((name,), {name: expression}).value(name, row) is not None:
                return expression
        except MissingField:
            continue
    return "COLUMN"


def _identifier(value: Any, place: str) -> str:
    if value is None or isinstance(value, bool | float) or not str(value).strip():
        raise DataError(f"{place}: the id is {value!r}, expected a non-empty text or an integer; give this row an id")
    return str(value)


def _to_problem(identifier: str, row: Mapping[str, Any], columns: Fields, place: str) -> Problem | str:
    """Return the problem, or the reason why the row is excluded."""
    values = {name: _value(name, row, columns, place) for name in ("problem", "answer")}
    if isinstance(values["problem"], list):
        values["problem"] = _only_message(values["problem"], columns.source("problem"), place)
    values["answer"] = _only_item(values["answer"], columns.source("answer"), place)
    texts = {name: _text(value) for name, value in values.items()}
    for name, text in texts.items():
        if text is None:
            return f"{name}_not_text"
        if not text.strip():
            return f"empty_{name}"
    has_solution = columns.has("solution", row) or bool(columns.given.get("solution"))
    solution = _text(_value("solution", row, columns, place)) if has_solution else None
    answer, worked = _split_answer(str(texts["answer"]))
    if not answer:
        return "empty_answer"
    used = {columns.column(name, row) for name in FIELDS if columns.source(name) in row}
    metadata = {str(name): value for name, value in row.items() if name not in used and name != "metadata"}
    return Problem(
        identifier, str(texts["problem"]).strip(), answer, solution or worked, metadata | _nested(row.get("metadata"))
    )


def _only_message(messages: list[Any], source: str, place: str) -> str:
    side = read_side(messages, "problem", place)
    if isinstance(side, str) or len(side) != 1 or side[0]["role"] != "user":
        roles = [message["role"] for message in side if isinstance(message, dict)]
        raise DataError(
            f"{place}: {source!r} is a conversation of {roles}, expected one user message; say which message is the "
            f"problem: --field problem={source}.-1.content"
        )
    return str(side[0]["content"])


def _only_item(value: Any, source: str, place: str) -> Any:
    """Return the only item of a list of answers, also of one that is written as text (Skywork's `["15"]`)."""
    items = value
    if isinstance(value, str) and value.lstrip().startswith(('["', "['")):
        try:
            items = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    if not isinstance(items, list):
        return value
    if len(items) > 1:
        raise DataError(
            f"{place}: {source!r} is a list of {len(items)} answers, expected one; take all of them, separated by "
            f"commas (--field answer=joined({source})), or one (--field answer={source}.0)"
        )
    return items[0] if items else None


def _text(value: Any) -> str | None:
    """Return text for text and numbers, '' for null and NaN, and `None` for what is neither (lists, booleans)."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return str(int(value)) if float(value).is_integer() else str(value)
    except (ValueError, OverflowError):  # more than 4,300 digits
        return None


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
