"""Text or messages, in one form: role and content, text only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage_dpo.errors import DataError

Side = str | list[dict[str, Any]]
"""Text, or messages."""

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "bot": "assistant"}
_ROLES |= {"model": "assistant", "system": "system", "tool": "tool", "observation": "tool"}


def read_side(value: Any, name: str, place: str) -> Side:
    """Return text as it is, and messages in one form.

    Args:
        value: text, a message, or a list of messages, with `role` and `content` or ShareGPT's `from` and `value`.
        name, place: what a message calls the field, and the row.

    Raises:
        DataError: anything else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return [_message(value, name, place)]
    if isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value):
        return [_message(item, name, place) for item in value]
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        raise DataError(
            f"{place}: {name!r} is a list of {len(value)} texts, expected one; choose one of them: "
            f"fields={{{name!r}: '{name}.0'}} (command line: --field {name}={name}.0), or write one row for each"
        )
    raise DataError(
        f"{place}: {name!r} is {short(value)}, expected text or a list of messages with role and content; mend this "
        f"row, or name another column: --field {name}=COLUMN"
    )


def _message(value: Mapping[str, Any], name: str, place: str) -> dict[str, Any]:
    keys = ("from", "value") if "from" in value and "role" not in value else ("role", "content")
    role, content = value.get(keys[0]), value.get(keys[1])
    known = isinstance(role, str) and (keys[0] == "role" or role.lower() in _ROLES)
    if not known or (keys[1] not in value and not value.get("tool_calls")):
        raise DataError(
            f"{place}: {name!r} holds the message {short(dict(value))}, expected role and content, or ShareGPT's from "
            f"({', '.join(_ROLES)}) and value; mend this row"
        )
    rest = {key: item for key, item in value.items() if key not in keys and item is not None}
    return {"role": _ROLES.get(str(role).lower(), role), "content": _content(content, name, place), **rest}


def _content(content: Any, name: str, place: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple) and all(isinstance(part, str | Mapping) for part in content):
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        if all(isinstance(part.get("text"), str) and part.get("type", "text") == "text" for part in parts):
            return "".join(part["text"] for part in parts)
        kinds = sorted({str(part.get("type")) for part in parts})
        raise DataError(
            f"{place}: {name!r} has content parts of the kinds {kinds}, expected text only; SAGE reads text"
        )
    raise DataError(f"{place}: {name!r} has the content {short(content)}, expected text; mend this row")


def common_beginning(chosen: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with which both begin, each side's last one left to it."""
    size = 0
    while size < min(len(chosen), len(rejected)) - 1 and chosen[size] == rejected[size]:
        size += 1
    return chosen[:size]


def is_blank(side: Side) -> bool:
    if isinstance(side, str):
        return not side.strip()
    said = (message for message in side if message["role"] != "system")
    return not any(message["content"].strip() or message.get("tool_calls") for message in said)


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
