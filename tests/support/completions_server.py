"""A small completions server on 127.0.0.1 with random but reproducible answers, which fails in every way asked for."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


@dataclass
class CompletionsServer:
    """What the server does, and what it saw. Faults come before the first good answer, one a request.

    Attributes:
        vocabulary: ids are drawn from `[first_id, vocabulary)`, or are `eos_id`.
        models: names it lists; `None` lists none (404).
        returns_token_ids: as vLLM with `return_token_ids`; otherwise text only.
        null_text: `text` is null.
        failures: status codes.
        retry_after, location: headers of the failures.
        broken_off: finish reasons of a request's first choice, in place of its own.
        hang: requests that are never answered, until the server stops.
        dies_after: stops after so many answers, in the middle of the next request.
        context: prompt and completion beyond it are refused in vLLM's words; `None` takes any length.
        is_well: what `/health` says.
        body: sent instead of an answer if set.
        drop_last_choice: answer one sample too few.
        requests: bodies of completion requests received.
        authorizations: their `Authorization` headers.
        dead: set when it has stopped and its port is free.
    """

    tokenizer: Any
    first_id: int = 5
    models: list[str] | None = field(default_factory=lambda: ["tiny"])
    returns_token_ids: bool = True
    null_text: bool = False
    failures: list[int] = field(default_factory=list)
    retry_after: str | None = None
    location: str | None = None
    broken_off: list[str | None] = field(default_factory=list)
    hang: int = 0
    dies_after: int | None = None
    context: int | None = None
    is_well: bool = True
    body: bytes | None = None
    drop_last_choice: bool = False
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    dead: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: dict[str, Any]) -> tuple[int, Any]:
        """Return the status and the answer of one completion request."""
        if self.failures:
            status = self.failures.pop(0)
            return status, {"error": f"status {status}"}
        if self.models is not None and request["model"] not in self.models:
            return 404, {"error": {"message": f"The model `{request['model']}` does not exist."}}
        length = len(request["prompt"])
        if self.context is not None and length + request["max_tokens"] > self.context:
            told = f"This model's maximum context length is {self.context} tokens. However, your prompt is {length}."
            return 400, {"error": {"message": told, "code": 400}}
        choices = [self._choice(request, index) for index in range(request["n"] - self.drop_last_choice)]
        if self.broken_off:
            choices[0]["finish_reason"] = self.broken_off.pop(0)
        return 200, {"object": "text_completion", "choices": choices[::-1]}  # order is not promised, `index` is

    def _choice(self, request: dict[str, Any], index: int) -> dict[str, Any]:
        seed = request["seed"] + index if request["temperature"] > 0 else 0
        rng = np.random.default_rng([seed, *request["prompt"]])
        ids = rng.integers(self.first_id, len(self.tokenizer), size=request["max_tokens"]).tolist()
        is_cut = rng.random() < 0.5
        if not is_cut:
            ids = [*ids[: int(rng.integers(request["max_tokens"]))], self.tokenizer.eos_token_id]
        choice = {
            "index": index,
            "text": None if self.null_text else self.tokenizer.decode(ids, skip_special_tokens=True),
            "finish_reason": "length" if is_cut else "stop",
        }
        return choice | ({"token_ids": ids} if self.returns_token_ids and request["return_token_ids"] else {})

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/health":
            return (200 if self.is_well else 503), {}
        if path == "/v1/models" and self.models is not None:
            return 200, {"data": [{"id": name} for name in self.models]}
        return 404, {}

    def post(self, path: str, request: dict[str, Any]) -> tuple[int, Any]:
        """Answer one POST; what is beside completions is for subclasses."""
        return self.answer(request) if path == "/v1/completions" else (404, {"detail": "Not Found"})

    @contextlib.contextmanager
    def serve(self, port: int = 0) -> Iterator[CompletionsServer]:
        """Serve until the block ends or the server dies; the port is free again after."""
        server, stopped, connections = self, threading.Event(), set[socket.socket]()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                connections.add(self.request)

            def do_GET(self) -> None:
                self.respond(*server.get(self.path))

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/v1/completions":
                    server.requests.append(request)
                    server.authorizations.append(self.headers.get("Authorization"))
                    if server.dies_after is not None and len(server.requests) > server.dies_after:
                        stop()
                        return
                    if server.hang:
                        server.hang -= 1
                        stopped.wait()
                        return
                self.respond(*server.post(self.path, request))

            def respond(self, status: int, answer: Any) -> None:
                is_body = server.body is not None and self.path == "/v1/completions"
                payload = server.body if is_body else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in (("Retry-After", server.retry_after), ("Location", server.location)):
                    if value is not None and status != 200:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:  # a client that hung up is no news
                pass

        def stop() -> None:
            """As a killed process: the port closes, and so do all connections."""
            stopped.set()
            http.shutdown()
            http.socket.close()
            for connection in tuple(connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            server.dead.set()

        http = Server(("127.0.0.1", port), Handler)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.url = f"http://127.0.0.1:{http.server_port}/v1"
        try:
            yield self
        finally:
            stop()
            thread.join()
