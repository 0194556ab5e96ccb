"""One completion server, and the ways in which a request to it fails."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sage_dpo.errors import ConfigError

if TYPE_CHECKING:
    import anyio


class TransientError(Exception):
    """One attempt failed with a cause that may pass.

    Attributes:
        pause_s: how long the server wants to be left alone.
        is_away: whether the server may have been started anew.
    """

    def __init__(self, cause: str, *, pause_s: float = 0.0, is_away: bool = False) -> None:
        super().__init__(cause)
        self.pause_s, self.is_away = pause_s, is_away


class RefusedError(Exception):
    """A server refused a request for what it asks.

    Attributes:
        status: HTTP status, 4xx.
        said: the beginning of its answer, without secrets.
        endpoint: which server.
    """

    def __init__(self, status: int, said: str, endpoint: Endpoint) -> None:
        super().__init__(f"HTTP {status}: {said}")
        self.status, self.said, self.endpoint = status, said, endpoint


class UnansweredError(Exception):
    """A request was not answered within `retry_s`.

    Attributes:
        is_alone: whether others were answered meanwhile, and one still is, so that it is this one's fault.
    """

    def __init__(self, message: str, *, is_alone: bool) -> None:
        super().__init__(message)
        self.is_alone = is_alone


@dataclass(eq=False)
class Endpoint:
    """One server.

    Attributes:
        root: address without `/v1`.
        place: the same, fit to be shown.
        load: requests that it has been chosen for.
        scopes: its requests under way.
        generation: how often it has been away.
        ready: the generation that was made ready.
        is_away, misses: whether it failed last, and how many looks at its health in a row.
        cause: for which it was last away.
        has_answered: whether it ever completed a prompt.
        model: name to ask for.
    """

    root: str
    place: str
    lock: anyio.Lock
    load: int = 0
    scopes: set[anyio.CancelScope] = field(default_factory=set)
    generation: int = 0
    ready: int = -1
    is_away: bool = False
    misses: int = 0
    cause: str = ""
    has_answered: bool = False
    model: str = ""

    def leave(self, generation: int, cause: str) -> None:
        """Note that it was away, once for all requests of one generation."""
        if generation == self.generation:
            self.generation += 1
            self.is_away, self.cause = True, cause


def check_key(key: str | None, variable: str) -> None:
    """Refuse a key that no header can hold.

    Raises:
        ConfigError: says where, not what.
    """
    bad = next((place for place, sign in enumerate(key or "", 1) if not "!" <= sign <= "~"), None)
    if bad is not None:
        raise ConfigError(
            f"the API key in {variable} has a character that no header can hold, number {bad} of {len(key or '')} (a "
            "line break, a space, or not ASCII); set the variable to the key alone"
        )


def retry_after(value: str | None) -> float:
    """Return the seconds that a `Retry-After` header asks for, which holds seconds or a date; 0 for none."""
    if value is None:
        return 0.0
    with contextlib.suppress(ValueError):
        return max(float(value), 0.0)
    with contextlib.suppress(ValueError):
        date = email.utils.parsedate_to_datetime(value)
        return max((date - datetime.datetime.now(date.tzinfo)).total_seconds(), 0.0)
    return 0.0


def import_client() -> Any:
    """Return the module httpx2, the client that huggingface_hub itself uses.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import httpx2
    except ImportError:
        raise ConfigError(
            "the server engine needs the package httpx2; install it with `pip install 'sage-dpo[server]'`"
        ) from None
    return httpx2
