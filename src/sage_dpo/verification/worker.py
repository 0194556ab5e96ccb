"""The child process: a line for each `Job` in, a line for each `Judgement` out, in order (`protocol`).

    python -P -m sage_dpo.verification.worker SOFT_TIMEOUT_S HARD_TIMEOUT_S MEMORY_LIMIT_MB

The first line out is `ready`. Three nets, from soft to hard: an alarm inside this process (seconds of CPU time, so that
a loaded machine costs no verdicts), a watchdog thread in C that ends the process even inside one long bytecode, and the
parent, which kills it (both seconds on the clock).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from sage_dpo.records import VerdictKind
from sage_dpo.verification.answer_types import AnswerType
from sage_dpo.verification.protocol import Job, Judgement

ORPHAN_GRACE_S = 5.0
"""The watchdog is for a worker whose parent is gone, so it waits a little longer than the parent would."""

_REPEAT_S = 0.5
_MAX_DIGITS = 20_000  # of an integer; Python's own limit, 4,300, is an error within what an answer may have
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


def deadline_s(job: Job, soft_timeout_s: float) -> float:
    """Return the CPU seconds allowed for one job: all of `soft_timeout_s` from 120 characters on, at least a third.

    Honest answers cost what they are long, hostile ones are short. Of 6,095 (gold, answer) pairs of the benchmarks,
    those found correct took at most 0.36 s up to 40 characters of both together, 0.55 s up to 60, 0.84 s up to 100 and
    1.7 s beyond, on a loaded machine; by default they are allowed 1 s, 1.5 s, 2.5 s and 3 s.
    """
    share = (len(job.gold) + len(job.text)) / _FULL_DEADLINE_CHARS
    return soft_timeout_s * min(1.0, max(_LEAST_SHARE, share))


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


def answer(job: Job, soft_timeout_s: float, hard_timeout_s: float) -> Judgement:
    """Judge one job; whatever goes wrong becomes a judgement too."""
    from sage_dpo.verification.judge import judge, judge_unmarked

    try:
        with _watchdog(hard_timeout_s + ORPHAN_GRACE_S), _alarm(deadline_s(job, soft_timeout_s)):
            kind = AnswerType(job.answer_type) if job.answer_type else None
            return (judge if job.is_marked else judge_unmarked)(job.gold, job.text, kind)
    except _SoftTimeout:
        return Judgement(VerdictKind.TIMEOUT, job.answer)
    except MemoryError:
        return Judgement(VerdictKind.ERROR, job.answer, "MemoryError", is_fatal=True)
    except Exception as error:  # the boundary: a strange answer is a counted record, not a crash
        return Judgement(VerdictKind.ERROR, job.answer, f"{type(error).__name__}: {error}"[:200])
    finally:
        signal.setitimer(_TIMER, 0.0)


def serve(lines: TextIO, replies: TextIO, soft_timeout_s: float, hard_timeout_s: float) -> None:
    """Answer until the parent closes the pipe, or until a job has exhausted the memory."""
    import sage_dpo.verification.judge  # noqa: F401  the slow import, before "ready" and outside any deadline

    print("ready", file=replies, flush=True)
    for line in lines:
        judgement = answer(Job.from_line(line), soft_timeout_s, hard_timeout_s)
        print(judgement.to_line(), file=replies, flush=True)
        if judgement.is_fatal:
            return


def main(arguments: list[str]) -> None:
    soft_timeout_s, hard_timeout_s, memory_limit_mb = float(arguments[0]), float(arguments[1]), int(arguments[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not enter the protocol
    limit_memory(memory_limit_mb)
    sys.set_int_max_str_digits(_MAX_DIGITS)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin, replies, soft_timeout_s, hard_timeout_s)


if __name__ == "__main__":
    main(sys.argv[1:])
