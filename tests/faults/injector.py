"""Runs the command line in forked children, and makes them fail at the n-th change of a file.

The parent has imported everything, so that an attempt costs only its work. What changes a file is seen by Python's
audit hooks; writers in C++ and Rust (weights, Parquet, PyTorch's archives) are hit by limits and by the clock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

SIGNALS = {name: getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT")}
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
DELETIONS = {"os.remove", "os.rmdir", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Fault:
    """What happens, and when.

    Attributes:
        kind: a signal; `no_space` (a write is refused), `file_size` (files end where they are too large, in C++ and
            Rust too), `no_memory` (an exception), `address_space` (the system gives no more).
        at: number of the change of a file, from 0; or
        after_s: seconds.
    """

    kind: str
    at: int | None = None
    after_s: float = 0.0

    def strike(self) -> None:
        if self.kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[self.kind])
        elif self.kind == "no_space":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif self.kind == "no_memory":
            raise MemoryError
        elif self.kind == "file_size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        elif self.kind == "address_space":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20))
        else:
            raise ValueError(self.kind)


@dataclass(frozen=True)
class Outcome:
    """How a child ended: exit code, or minus the signal; what it printed; its seconds; peak resident MiB."""

    code: int
    printed: str
    seconds: float
    peak_mib: float


def in_child(work: Callable[[], object], log: Path, *, limit_s: float = 900.0) -> Outcome:
    """Run `work` in a forked child with its output in a file; one that takes longer than the limit is killed."""
    started = time.monotonic()
    child = os.fork()
    if not child:
        _be_child(work, log)
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - started > limit_s:
            os.kill(child, signal.SIGKILL)
            os.wait4(child, 0)
            raise TimeoutError(f"hangs: no end after {limit_s:g} s; {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    printed = log.read_text(errors="replace")
    return Outcome(code, printed, time.monotonic() - started, usage.ru_maxrss / 1024)


def _be_child(work: Callable[[], object], log: Path) -> None:
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run_command(arguments: list[str], root: Path, fault: Fault | None = None, count: Path | None = None) -> None:
    """Run `sage-dpo` in this process, which is a child.

    Args:
        arguments: of the command line.
        root: below it changes of files are counted.
        fault: what happens to it.
        count: where the number of changes, and the numbers of those that delete, are written at the end.
    """
    from sage_dpo.cli import main

    # Drawing is half of the work of such a run, and changes no file.
    Figure.savefig = lambda _self, stream, **_: stream.write('<g id="x"/></svg>')  # type: ignore[method-assign]
    deletions = _watch(root, fault)
    if fault is not None and fault.at is None:
        signal.signal(signal.SIGALRM, lambda *_: fault.strike())
        signal.setitimer(signal.ITIMER_REAL, fault.after_s)
    sys.argv = ["sage-dpo", *arguments]
    try:
        main()
    finally:
        if count is not None:
            count.write_text(repr(deletions))


def _watch(root: Path, fault: Fault | None) -> list[list[int]]:
    """Count changes below `root` and strike at the chosen one; return [[number so far], [those that delete]]."""
    seen: list[list[int]] = [[0], []]
    prefix = str(root)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            is_change = isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
        else:
            is_change = event in CHANGES
        if not is_change or not str(arguments[0]).startswith(prefix):
            return
        number = seen[0][0]
        seen[0][0] += 1
        if event in DELETIONS:
            seen[1].append(number)
        if fault is not None and fault.at == number:
            fault.strike()

    sys.addaudithook(hook)
    return seen
