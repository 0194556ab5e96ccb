"""The child process: JSON lines in, JSON lines out, one answer a request, in order.

    python -P -m sage_dpo.verification.worker SOFT_TIMEOUT_S HARD_TIMEOUT_S MEMORY_LIMIT_MB

First line out is `{"ready": true}`. A request is `{"gold": ..., "answer": ...}` or `{"gold": ..., "tail": ...}`; a
reply is `{"kind": ..., "extracted": ..., "detail": ...}`. Three nets, from soft to hard: an alarm inside this process
(seconds of CPU time, so that a loaded machine costs no verdicts), a watchdog thread in C that ends the process even
inside one long bytecode, and the parent, which kills it (both seconds on the clock).
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


_REPEAT_S = 0.5
_FULL_DEADLINE_CHARS = 120
_LEAST_SHARE = 1 / 3

# ITIMER_PROF counts the CPU time of this process, user and system; without it, the clock on the wall
_TIMER, _SIGNAL = (
    (signal.ITIMER_PROF, signal.SIGPROF) if hasattr(signal, "ITIMER_PROF") else (signal.ITIMER_REAL, signal.SIGALRM)
)


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


def deadline_s(request: dict[str, Any], soft_timeout_s: float) -> float:
    """Return the CPU seconds allowed for one request: all of `soft_timeout_s` from 120 characters on, at least a third.

    Honest answers cost what they are long, hostile ones are short. Of 6,095 (gold, answer) pairs of the benchmarks,
    those found correct took at most 0.36 s up to 40 characters of both together, 0.55 s up to 60, 0.84 s up to 100 and
    1.7 s beyond, on a loaded machine; by default they are allowed 1 s, 1.5 s, 2.5 s and 3 s.
    """
    characters = len(request["gold"]) + len(request.get("answer") or request.get("tail") or "")
    return soft_timeout_s * min(1.0, max(_LEAST_SHARE, characters / _FULL_DEADLINE_CHARS))


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

    signal.signal(_SIGNAL, ring)
    # again and again: a first alarm that happens to ring inside a `__del__` or a callback is swallowed there
    signal.setitimer(_TIMER, timeout_s, _REPEAT_S)
    try:
        yield
    finally:
        signal.setitimer(_TIMER, 0.0)


def answer_request(request: dict[str, Any], soft_timeout_s: float, hard_timeout_s: float) -> dict[str, Any]:
    """Judge one request; whatever goes wrong becomes a reply. `is_fatal` says that this process must not go on."""
    from sage_dpo.verification.judge import judge, judge_unmarked

    extracted = request.get("answer")
    try:
        with _watchdog(hard_timeout_s + ORPHAN_GRACE_S), _alarm(deadline_s(request, soft_timeout_s)):
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
        signal.setitimer(_TIMER, 0.0)
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
