"""What a run depends on, recorded when it begins and compared, field by field, when it is resumed."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sage_dpo.errors import RunFolderError

_LIBRARIES = (
    "sage-dpo", "torch", "transformers", "tokenizers", "trl", "peft", "accelerate", "datasets", "numpy", "math-verify",
    "pyarrow",
)  # fmt: skip
_SHOWN = 5


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a result, and of Python."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by dots: `versions.torch`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def accept_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], accepted: Collection[str], *, what: str, how: str
) -> dict[str, dict[str, Any]]:
    """Return the fields that differ and were declared safe, each with `was` and `is`.

    Args:
        before, now: what was recorded, and what there is; nested mappings. A field that only one of them has differs.
        accepted: names of fields, or of groups of them (`versions` for all of `versions.*`).
        what: that is resumed, for the message.
        how: fields are declared safe, as `--accept {names}`.

    Raises:
        RunFolderError: others differ; names each, with both values.
    """
    old, new = flatten(before), flatten(now)
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    safe = {name for name in names if any(name == item or name.startswith(f"{item}.") for item in accepted)}
    refused = [name for name in names if name not in safe]
    if refused:
        shown = [f"{name} was {_short(old.get(name))}, is {_short(new.get(name))}" for name in refused[:_SHOWN]]
        more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        declare = how.format(names=",".join(refused[:_SHOWN]))
        raise RunFolderError(
            f"{what} was begun with something else: {'; '.join(shown)}{more}; restore it, begin anew in another "
            f"folder, or, if it cannot change the result, say so: {declare}"
        )
    return {name: {"was": old.get(name), "is": new.get(name)} for name in names if name in safe}


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
