"""HTTP to one or several completion servers: who is asked, what is tried again and for how long, who is away.

A request is tried again after whatever may pass: a refused or broken connection, a missed deadline, a busy or
restarting server (`_TRANSIENT`), an answer that was broken off. Pauses double with a random part, and keep to
`Retry-After`. While requests are under way, `/health` of their server is looked at; one that misses three looks is
away: its requests are given up and retried, elsewhere if another server is there.

A server is made ready before its first request, and again after it was away, as it may have been started anew with
other weights: `prepare` decides what that is.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from sage_dpo.config import ServerEngineSettings, redact_text, server_root
from sage_dpo.errors import RolloutError
from sage_dpo.rollouts.endpoint import (
    Endpoint,
    RefusedError,
    TransientError,
    UnansweredError,
    import_client,
    retry_after,
)

if TYPE_CHECKING:
    import httpx2

Parsed = TypeVar("Parsed")

_TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504}
_GONE = {502, 503, 504}  # also what a proxy says while the server behind it starts anew
_LONGEST_PAUSE_S = 30.0
_MISSES = 3


Prepare = Callable[["Client", Endpoint], Awaitable[str]]
"""Makes a server ready; returns the model's name there. Raises as `Client.call` does."""


class Client:
    """Asks the servers; for one call of `ServerEngine.sample`, inside its event loop.

    Args:
        settings: addresses, deadlines, retries.
        api_key: sent as bearer token if given.
        prepare: run for each server before its first request and after it was away.
        counts: `requests` and `retries` are added to.
    """

    def __init__(
        self, settings: ServerEngineSettings, api_key: str | None, prepare: Prepare, counts: Counter[str]
    ) -> None:
        import anyio

        httpx = import_client()
        self.settings, self.counts = settings, counts
        self._api_key, self._prepare = api_key, prepare
        self.endpoints = [
            Endpoint(root, redact_text(root), anyio.Lock()) for root in map(server_root, settings.base_urls)
        ]
        self._http: httpx2.AsyncClient = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None),
        )
        self._random = random.Random()  # pauses only; the global generator is left alone
        self._last_answer = -float("inf")

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Watch the servers' health inside, and close all connections after."""
        import anyio

        async with self._http, anyio.create_task_group() as group:
            for endpoint in self.endpoints:
                group.start_soon(self._watch, endpoint)
            yield
            group.cancel_scope.cancel()

    async def complete(self, body: Mapping[str, Any], parse: Callable[[Any, Endpoint], Parsed]) -> Parsed:
        """Return a parsed answer to `/v1/completions`, retrying what may pass.

        Args:
            body: the request without `model`, which is the server's name for the policy.
            parse: may raise `TransientError` too.

        Raises:
            RefusedError: 4xx.
            UnansweredError: not answered within `retry_s`.
            RolloutError: from `prepare` and `parse`.
        """
        import anyio

        causes: Counter[str] = Counter()
        first = time.monotonic()
        while True:
            endpoint = self._next_endpoint()
            try:
                answer = await self._attempt(endpoint, body, parse)
            except TransientError as error:
                causes[f"{endpoint.place}: {error}"] += 1
                tried_s = time.monotonic() - first
                pause_s = max(self._pause(causes.total()), error.pause_s)
                if tried_s + pause_s > self.settings.retry_s:
                    is_alone = self._last_answer > first and await self._answers_others(body)
                    raise self._give_up(causes, tried_s, is_alone) from None
                self.counts["retries"] += 1
                await anyio.sleep(pause_s)
            else:
                self._last_answer = time.monotonic()
                return answer

    def _next_endpoint(self) -> Endpoint:
        return min(self.endpoints, key=lambda endpoint: (endpoint.is_away, endpoint.load))

    async def _answers_others(self, body: Mapping[str, Any]) -> bool:
        """Whether a server answers the shortest of requests, so that one not answered is itself to blame."""
        shortest = {**body, "prompt": body["prompt"][:1], "n": 1, "max_tokens": 1}
        try:
            await self._attempt(self._next_endpoint(), shortest, lambda answer, _: answer)
        except (TransientError, RefusedError):
            return False
        return True

    async def _attempt(
        self, endpoint: Endpoint, body: Mapping[str, Any], parse: Callable[[Any, Endpoint], Parsed]
    ) -> Parsed:
        """Ask one server once."""
        generation = endpoint.generation
        endpoint.load += 1
        try:
            await self._make_ready(endpoint, generation)
            generation = endpoint.generation
            self.counts["requests"] += 1
            answer = parse(await self.call(endpoint, "/v1/completions", {**body, "model": endpoint.model}), endpoint)
        except RefusedError as error:
            if error.status != 404 or not endpoint.has_answered:
                raise
            cause = f"it no longer serves {endpoint.model!r}"
            endpoint.leave(generation, cause)  # it had the model: it was started anew, without an adapter loaded since
            raise TransientError(cause, is_away=True) from None
        except TransientError as error:
            if error.is_away:
                endpoint.leave(generation, str(error))
            raise
        finally:
            endpoint.load -= 1
        endpoint.is_away, endpoint.misses, endpoint.has_answered = False, 0, True
        return answer

    async def call(
        self, endpoint: Endpoint, path: str, body: Any = None, *, deadline_s: float | None = None, is_read: bool = True
    ) -> Any:
        """Make one attempt; POST with a body, else GET. Return the parsed JSON, or `None` if it is not to be read.

        Raises:
            TransientError, RefusedError: see there.
            RolloutError: the answer is not JSON.
        """
        import anyio

        httpx = import_client()
        deadline_s = deadline_s or self.settings.timeout_s
        with anyio.move_on_after(deadline_s) as scope:
            endpoint.scopes.add(scope)
            try:
                url = endpoint.root + path
                response = await (self._http.get(url) if body is None else self._http.post(url, json=body))
            except (httpx.TransportError, httpx.DecodingError) as error:
                raise TransientError(f"{type(error).__name__}: {self._quote(str(error))}", is_away=True) from None
            finally:
                endpoint.scopes.discard(scope)
        if scope.cancelled_caught:
            if endpoint.misses >= _MISSES:
                raise TransientError("missed its health checks", is_away=True)
            raise TransientError(f"no answer within {deadline_s:g} s")
        return self._read(endpoint, path, response, is_read)

    def _read(self, endpoint: Endpoint, path: str, response: Any, is_read: bool) -> Any:
        status, said = response.status_code, self._quote(response.text)
        if status in _TRANSIENT:
            pause_s = retry_after(response.headers.get("Retry-After"))
            is_away = status in _GONE and not pause_s  # with a time to come again it is busy
            raise TransientError(f"{path} HTTP {status}: {said}", pause_s=pause_s, is_away=is_away)
        if 300 <= status < 400:
            said = f"redirects to {self._quote(response.headers.get('Location', 'nowhere'))}"
        if status >= 300:
            raise RefusedError(status, "(its answer is not shown)" if status in (401, 403) else said, endpoint)
        try:
            return response.json() if is_read else None
        except ValueError:
            raise RolloutError(
                f"{endpoint.place} answered with text that is not JSON: {said!r}; is this an OpenAI-compatible "
                "completions endpoint?"
            ) from None

    async def _make_ready(self, endpoint: Endpoint, generation: int) -> None:
        """Make a server ready, one request for all; where that one found it away, the others have, too."""
        async with endpoint.lock:
            if generation < endpoint.generation and endpoint.is_away:
                raise TransientError(endpoint.cause, is_away=True)
            while endpoint.ready < endpoint.generation:
                generation = endpoint.generation
                endpoint.model = await self._prepare(self, endpoint)
                endpoint.ready = generation

    async def _watch(self, endpoint: Endpoint) -> None:
        """Give up the requests of a server that misses three looks in a row."""
        import anyio

        httpx = import_client()
        while True:
            await anyio.sleep(self.settings.health_s)
            if not endpoint.scopes and not endpoint.is_away:
                continue
            is_well = False
            with contextlib.suppress(httpx.TransportError), anyio.move_on_after(max(10.0, self.settings.health_s)):
                is_well = (
                    await self._http.get(endpoint.root + "/health")
                ).status_code < 500  # 404: it has no such page
            endpoint.misses = 0 if is_well else endpoint.misses + 1
            endpoint.is_away = endpoint.is_away and not is_well
            if endpoint.misses >= _MISSES:
                for scope in tuple(endpoint.scopes):
                    scope.cancel()

    def _pause(self, failures: int) -> float:
        longest = min(_LONGEST_PAUSE_S, self.settings.backoff_s * 2 ** min(failures - 1, 16))
        return longest * self._random.uniform(0.5, 1.0)

    def _give_up(self, causes: Counter[str], tried_s: float, is_alone: bool) -> UnansweredError:
        told = "; ".join(f"{cause} ({count} times)" for cause, count in causes.most_common(4))
        return UnansweredError(
            f"no answer in {causes.total()} attempts over {tried_s:.0f} s: {told}", is_alone=is_alone
        )

    @property
    def key_told(self) -> str:
        """How a message calls the API key."""
        return f"the API key ({self.settings.api_key_env} is {'set' if self._api_key else 'not set'})"

    def _quote(self, text: str) -> str:
        """The beginning of a server's answer, which may repeat the key that it was sent."""
        return redact_text(text[:300], self._api_key)
