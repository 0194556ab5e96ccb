"""Secrets, kept out of what is written and printed: by the name of a setting, and by what a value looks like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_NAME = re.compile(r"(hub|auth|access|api|bearer|secret)_?(token|key)|password|passwd|secret", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_KEYS = re.compile(r"\b(hf_\w{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,})")


def redact(value: Any, name: str = "") -> Any:
    """Return a value, its secrets hidden: texts under a name like `hub_token`, logins in URLs, keys of known form.

    Mappings and lists are walked; `api_key_env`, which names a variable, is no secret.
    """
    if isinstance(value, Mapping):
        return {key: redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item, name) for item in value]
    if not isinstance(value, str):
        return value
    if value and _NAME.search(name) and not name.endswith("_env"):
        return HIDDEN
    hidden = redact_text(value)
    return value if hidden == value else hidden


def redact_text(text: str, *secrets: str | None) -> str:
    """Return a text without logins in URLs, keys of known form, and the secrets given."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN) if secret else text
    return _KEYS.sub(HIDDEN, _LOGIN.sub(HIDDEN, text))
