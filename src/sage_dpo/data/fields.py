"""Which column of a user's data holds what: one small notation for recipes, commands and `SAGETrainer`.

    question                    a column
    reward_model.ground_truth   a field inside a column; numbers count list items from 0, or from -1 backwards
    last_box(solution)          what the last \\boxed{} holds
    after_hashes(answer)        what follows the last ####
    joined(final_answer)        the items of a list, separated by commas
    (nothing)                   no column: ours of that name is left out

A column whose whole name is the text comes first, so names with dots work. Text that holds a JSON object or list is
read where a field inside it is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from sage_dpo.errors import DataError

_CALL = re.compile(r"(\w+)\((.*)\)")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


class MissingField(Exception):
    """A row lacks the column, or the field inside it."""


class Fields:
    """Which of the user's columns hold ours.

    Args:
        names: ours.
        given: ours -> the user's, where they differ; nothing (`None` or an empty text) leaves ours out.

    Raises:
        DataError: a name that is not ours, or a function that is not known.
    """

    def __init__(self, names: tuple[str, ...], given: Mapping[str, str | None] | None = None) -> None:
        self.given = {name: source or "" for name, source in (given or {}).items()}
        unknown = sorted(set(self.given) - set(names))
        if unknown:
            raise DataError(
                f"fields has the keys {unknown}, expected some of {', '.join(names)}; "
                f"the key is ours and the value is your column, as in fields={{{names[0]!r}: 'COLUMN'}}"
            )
        self._sources = {name: self.given.get(name, name) for name in names}
        for source in self.given.values():
            call = _CALL.fullmatch(source)
            if call and call[1] not in FUNCTIONS:
                raise DataError(f"fields: {source!r} is no known function; expected {', '.join(FUNCTIONS)}")

    def source(self, name: str) -> str:
        """The user's column, or expression, for one of ours; empty if it is left out."""
        return self._sources[name]

    def column(self, name: str, row: Mapping[str, Any]) -> str:
        """The column of `row` that one of ours is read from: the expression's first part."""
        source = self._sources[name]
        call = _CALL.fullmatch(source)
        path = call[2] if call and source not in row else source
        return path if path in row else path.split(".")[0]

    def has(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether ours is read at all: the user named a column for it, or there is one of its name."""
        return bool(self._sources[name]) and (name in self.given or name in row)

    def value(self, name: str, row: Mapping[str, Any]) -> Any:
        """Return what a row holds for one of ours; `None` where a function finds nothing.

        Raises:
            MissingField: no such column or field.
        """
        source = self._sources[name]
        call = _CALL.fullmatch(source)
        if call and source not in row:
            return FUNCTIONS[call[1]](_at(row, call[2].strip()))
        return _at(row, source)


def _at(row: Mapping[str, Any], path: str) -> Any:
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        value = as_json(value)
        try:
            value = value[int(part)] if isinstance(value, list | tuple) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise MissingField(path) from None
    return value


def as_json(value: Any) -> Any:
    """Return the object or list that a text holds as JSON; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def last_box(text: Any) -> str | None:
    """Return what the last `\\boxed{...}` of a text holds; `None` without one."""
    if not isinstance(text, str):
        return None
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    depth = 1
    for position in range(starts[-1], len(text)):
        character = text[position]
        if text[position - 1] != "\\" and character in "{}":
            depth += 1 if character == "{" else -1
        if depth == 0:
            return text[starts[-1] : position].strip()
    return None


def after_hashes(text: Any) -> str | None:
    """Return what follows the last `####` of a text; `None` without one."""
    if not isinstance(text, str) or "####" not in text:
        return None
    return text.rpartition("####")[2].strip()


def joined(value: Any) -> str | None:
    """Return the items of a list, separated by commas; `None` if there are none, or they are no texts and numbers."""
    items = as_json(value)
    if isinstance(items, str):
        return items
    if not isinstance(items, list | tuple) or not items:
        return None
    if any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in items):
        return None
    return ", ".join(str(item).strip() for item in items)


FUNCTIONS: Mapping[str, Callable[[Any], str | None]] = {
    "last_box": last_box,
    "after_hashes": after_hashes,
    "joined": joined,
}
