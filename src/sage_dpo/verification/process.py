"""One worker process as the parent sees it: start, send, receive, kill. POSIX only (selectable pipes, alarms).

Why not a library's pool: pebble 5.2.3, the nearest, was tried. It kills a worker inside one long C call, replaces it,
and lets an initializer bound the memory. But with `spawn` and `forkserver` every worker runs the user's `__main__`
module again, so that a script without an `if __name__ == "__main__"` guard starts itself over; with `fork` workers
inherit the parent's threads, CUDA context and address space, for which no memory limit fits. On loky's processes
`__main__` stays unread, but that takes two libraries, and still missing are a fixed hash seed and one thread for the
workers alone, a retry in a fresh process, and the last words of a dead worker. Its deadlines are on the clock: the
alarm in CPU time (`worker`) would stay too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import sage_dpo
from sage_dpo.verification.protocol import Job, Judgement

START_TIMEOUT_S = 120.0
"""Importing sympy takes one second on an idle machine and many on a loaded one or a cold network disk."""

_MAX_PENDING_JOBS = 2  # one under way, one at hand; more would wait behind a slow one while other workers idle
_MAX_PENDING_BYTES = 16_384
"""Less than the smallest default pipe buffer, so that sending never blocks while the child computes."""


class Limits(NamedTuple):
    """What a worker is held to: see `Verifier`."""

    soft_timeout_s: float
    hard_timeout_s: float
    memory_limit_mb: int


class WorkerProcess:
    """A running worker and the jobs it has been sent, oldest first. Only the oldest is under way.

    Attributes:
        jobs: sent and not yet answered.
        served: answers received.
        is_ready: the child has finished its imports.
        clock_s: when the job under way (or the start) began, `time.monotonic`.
    """

    def __init__(self, soft_timeout_s: float, hard_timeout_s: float, memory_limit_mb: int) -> None:
        arguments = [str(soft_timeout_s), str(hard_timeout_s), str(memory_limit_mb)]
        self.jobs: deque[Job] = deque()
        self.served = 0
        self.is_ready = False
        self.clock_s = time.monotonic()
        self._hard_timeout_s = hard_timeout_s
        self._received = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in `kill`; a pipe nobody reads would block the child
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sage_dpo.verification.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(),
            bufsize=0,
            start_new_session=True,  # the terminal's Ctrl-C reaches the parent only
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def deadline_s(self) -> float:
        """When to give up on what is under way; infinity if idle."""
        if not self.is_ready:
            return self.clock_s + START_TIMEOUT_S
        return self.clock_s + self._hard_timeout_s if self.jobs else float("inf")

    @property
    def is_fresh(self) -> bool:
        """Nothing that happens in this process can be an earlier job's fault."""
        return not self.served and not self.jobs

    def has_room_for(self, job: Job) -> bool:
        if not self.jobs:
            return True
        pending = [*self.jobs, job]
        return len(pending) <= _MAX_PENDING_JOBS and sum(len(job.to_line()) for job in pending) <= _MAX_PENDING_BYTES

    def send(self, job: Job) -> None:
        """Send one job. Raises BrokenPipeError if the child is gone."""
        assert self._process.stdin is not None
        if not self.jobs and self.is_ready:
            self.clock_s = time.monotonic()
        self.jobs.append(job)
        view = memoryview(job.to_line())
        while view:
            view = view[self._process.stdin.write(view) :]

    def receive(self) -> list[tuple[Job, Judgement]] | None:
        """Return what was judged meanwhile; `None` if the child is gone. Call when the pipe is readable."""
        chunk = os.read(self.fileno(), 65_536)
        if not chunk:
            return None
        *lines, self._received = (self._received + chunk).split(b"\n")
        finished = []
        for line in lines:
            self.clock_s = time.monotonic()
            if not self.is_ready:
                self.is_ready = True  # the first line says no more than that
                continue
            self.served += 1
            finished.append((self.jobs.popleft(), Judgement.from_line(line)))
        return finished

    def kill(self) -> str:
        """Kill and reap the child; return how it ended and its last words."""
        self._process.kill()
        exit_code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._errors.closed:
            return ""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 500))
        last_words = self._errors.read().decode("utf-8", "replace").strip()
        self._errors.close()
        return f"worker ended with code {exit_code}" + (f": {last_words}" if last_words else "")


def _environment() -> dict[str, str]:
    """The child's environment: one thread, fixed hashing (sympy orders sets by hash), this very package importable."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONHASHSEED": "0"}
    root = str(Path(sage_dpo.__file__).resolve().parent.parent)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return environment
