"""A small OpenAI-compatible completions endpoint on 127.0.0.1 with random but reproducible answers, for tests."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


@dataclass
class CompletionsServer:
    """What the endpoint does, and what it saw.

    Attributes:
        vocabulary: ids are drawn from `[first_id, vocabulary)`, or are `eos_id`.
        returns_token_ids: as vLLM with `return_token_ids`; otherwise text only.
        failures: status codes to answer with before the first success.
        body: sent instead of an answer if set.
        drop_last_choice: answer one sample too few.
        requests: bodies received.
        authorizations: `Authorization` headers received.
    """

    tokenizer: Any
    first_id: int = 5
    returns_token_ids: bool = True
    failures: list[int] = field(default_factory=list)
    body: bytes | None = None
    drop_last_choice: bool = False
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        count = request["n"] - self.drop_last_choice
        choices = [self._choice(request, index) for index in range(count)]
        return {"object": "text_completion", "choices": choices[::-1]}  # order is not promised, `index` is

    def _choice(self, request: dict[str, Any], index: int) -> dict[str, Any]:
        seed = request["seed"] + index if request["temperature"] > 0 else 0
        rng = np.random.default_rng([seed, *request["prompt"]])
        ids = rng.integers(self.first_id, len(self.tokenizer), size=request["max_tokens"]).tolist()
        is_cut = rng.random() < 0.5
        if not is_cut:
            ids = [*ids[: int(rng.integers(request["max_tokens"]))], self.tokenizer.eos_token_id]
        choice = {
            "index": index,
            "text": self.tokenizer.decode(ids, skip_special_tokens=True),
            "finish_reason": "length" if is_cut else "stop",
        }
        return choice | ({"token_ids": ids} if self.returns_token_ids and request["return_token_ids"] else {})

    @contextlib.contextmanager
    def serve(self) -> Iterator[CompletionsServer]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(request)
                server.authorizations.append(self.headers.get("Authorization"))
                status = server.failures.pop(0) if server.failures else 200
                if self.path != "/v1/completions":
                    status = 404
                answer = server.answer(request) if status == 200 else {"error": f"status {status}"}
                payload = server.body or json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.url = f"http://127.0.0.1:{http.server_port}/v1"
        try:
            yield self
        finally:
            http.shutdown()
            thread.join()
            http.server_close()
