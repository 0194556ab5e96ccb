"""What every group of settings shares: frozen, no unknown keys, described in one place, errors that tell the remedy."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from sage_dpo.config.secrets import redact, redact_text
from sage_dpo.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error.

    A setting is stated once, as `Field(default, bounds, description=...)`: the descriptions make up the docstring's
    list of attributes, the settings page, the help of the command line and that of `SAGEConfig`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        cls.__doc__ = with_attributes(cls.__doc__, cls)


def with_attributes(docstring: str | None, *sections: type[BaseModel]) -> str:
    """Return the docstring with a list of attributes at its end, from the settings' descriptions."""
    fields = [(name, field) for section in sections for name, field in section.model_fields.items()]
    lines = [f"    {name}: {field.description}" for name, field in fields]
    return "\n".join([inspect.cleandoc(docstring or ""), "", "Attributes:", *lines])


def validate(model: type[Model], values: Mapping[str, Any], *, where: str = "") -> Model:
    """Validate `values` against a section.

    Raises:
        ConfigError: one line per problem: the key's path, what was got, what is expected, the nearest known key.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(model, error, where)) from None


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `values["a"]["b"]` for the key `a.b`, making the mappings on the way.

    Raises:
        ConfigError: something on the way is not a mapping.
    """
    *parents, last = key.split(".")
    for parent in parents:
        nested = values.setdefault(parent, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"override {key!r}: {parent!r} is not a section")
        values = nested
    values[last] = value


_REPLACED = {
    "candidates_per_step": "set pairs_per_step, the pairs trained on: what was candidates_per_step x keep_ratio",
}
"""Keys of earlier versions that are not a misspelling of what replaced them."""


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        path = ".".join([*([where] if where else []), *(str(part) for part in item["loc"])])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {path!r}; {_hint(model, item['loc'])}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            got = "" if isinstance(item["input"], dict) else f" (got {redact_text(repr(redact(item['input'], path)))})"
            lines.append(f"{path or 'recipe'}: {message}{got}")
    return "\n".join(lines)


def _hint(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    key = str(location[-1])
    known = sorted(_known_keys(model, location))
    near = difflib.get_close_matches(key, known, n=1)
    return _REPLACED.get(key) or (f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}")


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Keys allowed beside the unknown one, found by walking the annotations along its path."""
    candidates = [model]
    for part in location[:-1]:
        fields = [candidate.model_fields[str(part)] for candidate in candidates if part in candidate.model_fields]
        if fields:
            candidates = [nested for field in fields for nested in models_in(field.annotation)]
        elif any("kind" in candidate.model_fields for candidate in candidates):  # the tag of a union: that variant
            tagged = [c for c in candidates if "kind" in c.model_fields]
            candidates = [c for c in tagged if part in get_args(c.model_fields["kind"].annotation)]
    return {name for candidate in candidates for name in candidate.model_fields}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that a setting of this type can be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in models_in(argument)]
