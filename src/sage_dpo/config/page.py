"""The settings page: every key of a recipe with its values, default and meaning, read from the sections themselves."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sage_dpo.config.recipe import RunConfig
from sage_dpo.config.section import models_in

_HEAD = """\
# Settings

Every key of a recipe (`recipes/*.yaml`, `sage-dpo run`). Any of them can be set on the command line: `--set
training.steps=20`, and in the same way in the commands of single stages, which take the sections they need.

`null` is none. This page is printed by `sage-dpo settings`.
"""
_TABLE = "| key | values | default | meaning |\n|---|---|---|---|"
_TYPES = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def settings_page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_HEAD, *_tables("", RunConfig, set())])


def _tables(path: str, section: type[BaseModel], seen: set[type[BaseModel]], depth: int = 1) -> Iterator[str]:
    """Yield a heading, the section's first line and its table, then those of the sections within."""
    seen.add(section)
    kind = section.model_fields.get("kind")
    variant = f", `kind: {get_args(kind.annotation)[0]}`" if kind else ""
    if path:
        yield f"{'#' * depth} `{path}`{variant}\n"
    yield f"{(section.__doc__ or '').splitlines()[0]}\n"
    yield _TABLE
    for name, field in section.model_fields.items():
        if name != "kind":
            yield f"| `{name}` | {values_text(field)} | {default_text(field)} | {field.description} |"
    yield ""
    for name, field in section.model_fields.items():
        for nested in models_in(field.annotation):
            if nested not in seen:
                inner = f"{name}.<name>" if get_origin(field.annotation) is dict else name
                yield from _tables(f"{path}.{inner}" if path else inner, nested, seen, depth + 1)


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
    words = {None: "null", True: "true", False: "false", "": "empty"}
    return f"`{words.get(value, value) if isinstance(value, (str, bool, NoneType)) else value}`"


def _type_text(annotation: Any, metadata: Any = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(arguments[0], arguments[1:])
    if models_in(annotation):
        text = "sections by name" if origin is dict else "section"
        return f"{text} or `null`" if NoneType in arguments else text
    if origin in (Union, UnionType):
        return " or ".join(_type_text(argument, metadata) for argument in arguments)
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is dict:
        return "keys and values"
    if origin in (list, tuple):
        return "list" if origin is list else f"{len(arguments)} numbers"
    if annotation is NoneType:
        return "`null`"
    bounds = ((sign, getattr(item, name, None)) for item in metadata for name, sign in _BOUNDS.items())
    text = ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
    return f"{_TYPES[annotation]} {text}".strip()
