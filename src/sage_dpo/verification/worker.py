"""The child process: JSON lines in, JSON lines out, one answer a request, in order.

    python -P -m sage_dpo.verification.worker SOFT_TIMEOUT_S HARD_TIMEOUT_S MEMORY_LIMIT_MB

First line out is `{"ready": true}`. A request is `{"gold": ..., "answer": ...}` or `{"gold": ..., "tail": ...}`; a
reply is `{"kind": ..., "extracted": ..., "detail": ...}`. Three nets, from soft to hard: an alarm inside this process,
a watchdog thread in C that ends the process even inside one long bytecode, and the parent, which kills it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

ORPHAN_GRACE_S = 5.0
"""The watchdog is for a worker whose parent is gone, so it waits a little longer than the parent would."""


class _SoftTimeout(BaseException):
    """Not an `Exception`: sympy and math-verify catch those broadly."""


def limit_memory(limit_mb: int) -> None:
    """Cap this process's address space; a no-op where the platform has no such limit (0 means no limit)."""
    if limit_mb <= 0:
        return
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = limit_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


@contextlib.contextmanager
def _watchdog(timeout_s: float) -> Iterator[None]:
    faulthandler.dump_traceback_later(timeout_s, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _alarm(timeout_s: float) -> Iterator[None]:
    def ring(signum: int, frame: FrameType | None) -> None:
        raise _SoftTimeout

    signal.signal(signal.SIGALRM, ring)
    # again every second: a first alarm that happens to ring inside a `__del__` or a callback is swallowed there
    signal.setitimer(signal.ITIMER_REAL, timeout_s, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def answer_request(request: dict[str, Any], soft_timeout_s: float, hard_timeout_s: float) -> dict[str, Any]:
    """Judge one request; whatever goes wrong becomes a reply. `is_fatal` says that this process must not go on."""
    from sage_dpo.verification.judge import judge, judge_unmarked

    extracted = request.get("answer")
    try:
        with _watchdog(hard_timeout_s + ORPHAN_GRACE_S), _alarm(soft_timeout_s):
            if extracted is not None:
                judgement = judge(request["gold"], extracted)
            else:
                judgement = judge_unmarked(request["gold"], request["tail"])
    except _SoftTimeout:
        return {"kind": "timeout", "extracted": extracted}
    except MemoryError:
        return {"kind": "error", "extracted": extracted, "detail": "MemoryError", "is_fatal": True}
    except Exception as error:  # the boundary: a strange answer is a counted record, not a crash
        return {"kind": "error", "extracted": extracted, "detail": f"{type(error).__name__}: {error}"[:200]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return {"kind": judgement.kind.value, "extracted": judgement.extracted, "detail": judgement.detail}


def serve(requests: TextIO, replies: TextIO, soft_timeout_s: float, hard_timeout_s: float) -> None:
    """Answer until the parent closes the pipe, or until a request has exhausted the memory."""
    import sage_dpo.verification.judge  # noqa: F401  the slow import, before "ready" and outside any deadline

    print('{"ready": true}', file=replies, flush=True)
    for line in requests:
        reply = answer_request(json.loads(line), soft_timeout_s, hard_timeout_s)
        print(json.dumps(reply), file=replies, flush=True)
        if reply.get("is_fatal"):
            return


def main(arguments: list[str]) -> None:
    soft_timeout_s, hard_timeout_s, memory_limit_mb = float(arguments[0]), float(arguments[1]), int(arguments[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not enter the protocol
    limit_memory(memory_limit_mb)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin, replies, soft_timeout_s, hard_timeout_s)


if __name__ == "__main__":
    main(sys.argv[1:])
