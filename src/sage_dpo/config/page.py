"""The settings page: every key of a recipe with its values, default and meaning, read from the sections themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sage_dpo.config.section import Section, models_in

_HEAD = """\
# Settings

Every key of a recipe (`recipes/*.yaml`, `sage-dpo run`) and of a study file. A recipe's can be set on the command line:
`--set training.steps=20`, and in the same way in the commands of single stages, which take the sections they need.

`null` is none. This page is printed by `sage-dpo settings`.
"""
_TABLE = "| key | values | default | meaning |\n|---|---|---|---|"
_TYPES = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}
_WITHIN: dict[Any, str] = {dict: ".<name>", list: "[]"}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def settings_page(**files: type[Section]) -> str:
    """Return the page as Markdown.

    Args:
        files: what can be written in each kind of file, by the file's name.
    """
    seen: set[type[BaseModel]] = set()
    return "\n".join([_HEAD, *(line for name, section in files.items() for line in _tables(name, "", section, seen))])


def _tables(title: str, path: str, section: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    """Yield a heading, the section's first line and its table, then those of the sections within."""
    seen.add(section)
    kind = section.model_fields.get("kind")
    variant = f", `kind: {get_args(kind.annotation)[0]}`" if kind else ""
    yield f"### `{path}`{variant}\n" if path else f"## {title.capitalize()}\n"
    yield f"{(section.__doc__ or '').splitlines()[0]}\n"
    yield _TABLE
    for name, field in section.model_fields.items():
        if name != "kind":
            yield f"| `{name}` | {values_text(field)} | {default_text(field)} | {field.description} |"
    yield ""
    for name, field in section.model_fields.items():
        for nested in models_in(field.annotation):
            if nested not in seen:
                inner = name + _WITHIN.get(get_origin(field.annotation), "")
                yield from _tables(title, f"{path}.{inner}" if path else inner, nested, seen)


def values_text(field: FieldInfo) -> str:
    """Return what a setting may be, in words: `number > 0, <= 1`."""
    return _type_text(field.annotation, field.metadata)


def default_text(field: FieldInfo) -> str:
    """Return a setting's default as it would be written in a recipe."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if models_in(field.annotation) and value is not None:
        return "its defaults"
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", r"\|")  # a bar ends a cell of the table
    words = {None: "null", True: "true", False: "false", "": "empty"}
    return f"`{words.get(value, value) if isinstance(value, (str, bool, NoneType)) else value}`"


def _type_text(annotation: Any, metadata: Any = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(arguments[0], arguments[1:])
    if models_in(annotation):
        text = {dict: "sections by name", list: "list of sections"}.get(origin, "section")
        return f"{text} or `null`" if NoneType in arguments else text
    if origin in (Union, UnionType):
        return " or ".join(_type_text(argument, metadata) for argument in arguments)
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is dict:
        return "keys and values"
    if origin is tuple and Ellipsis in arguments:
        return "list of pairs"
    if origin in (list, tuple):
        return "list" if origin is list else f"{len(arguments)} numbers"
    if annotation is NoneType:
        return "`null`"
    bounds = ((sign, getattr(item, name, None)) for item in metadata for name, sign in _BOUNDS.items())
    text = ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
    return f"{_TYPES[annotation]} {text}".strip()
