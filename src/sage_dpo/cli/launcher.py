"""The command line under `torchrun` or `accelerate launch`: which commands share their work, and which process speaks.

Read from what launchers set, as accelerate does, but without its imports: a typing error must answer at once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from sage_dpo.errors import ConfigError

SHARED = ("run", "tune", "rollouts", "evaluate")
"""The commands that several processes share."""

_NUMBERS = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT")

INTERRUPTED = 130
"""Exit status after Ctrl-C."""

_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "ncclRemoteError",
    "remote server shutdown",
    "Timed out waiting",
)
"""What gloo, NCCL and their store say of a process that is gone, or does not answer."""

_GRACE_S, _APART_S = 20.0, 0.5
"""Time for the launcher to end a process because the main one has failed, and told why; or the one before it."""


def launched() -> tuple[int, int]:
    """Return how many processes the launcher has started, and which one this is."""
    if "LOCAL_RANK" not in os.environ:
        return 1, 0
    return _number("WORLD_SIZE", 1), _number("RANK", 0)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return launched()[1] == 0


def check_shared(command: str | None) -> None:
    """Refuse several processes where a command would do its work once in each, and half of what a launcher sets.

    Raises:
        ConfigError: it would; a variable of the launcher's is absent or no number.
    """
    if command in SHARED and "LOCAL_RANK" in os.environ:
        wrong = [name for name in _NUMBERS if not os.environ.get(name, "").isdecimal()]
        wrong += [name for name in ("MASTER_ADDR",) if not os.environ.get(name)]
        if wrong:
            raise ConfigError(
                f"LOCAL_RANK is set, as by a launcher, but {wrong[0]} is {os.environ.get(wrong[0])!r}; start with "
                "`torchrun` or `accelerate launch`, which set them all, or unset LOCAL_RANK for one process"
            )
    processes, _ = launched()
    if processes > 1 and command is not None and command not in SHARED:
        raise ConfigError(
            f"`sage-dpo {command}` runs in one process, but the launcher has started {processes}; start it without "
            f"`torchrun` or `accelerate launch` (several share {', '.join(SHARED[:-1])} and {SHARED[-1]})"
        )


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """End one of several processes as soon as its work is done.

    What the interpreter takes down on its way out may still be used by gloo's threads, which then abort the process
    (pytorch/pytorch#179291), and a finished run would be reported as failed.
    """
    try:
        yield
    except SystemExit as stop:
        if launched()[0] == 1 or not isinstance(stop.code, int | None):
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.code or 0)


def start(app: Callable[..., Any]) -> None:
    """Run the command line; a typing error, which all processes make, is told by the main one."""
    if is_main():
        app()
        return
    try:
        status = app(standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's, of which typer has a copy of its own
            raise
        fail(f"error: {error.format_message()}")
    raise SystemExit(status or 0)


def lost_process(error: Exception) -> str | None:
    """Say that another process has ended, where this one has lost its connection to it; else `None`."""
    text = str(error)
    if launched()[0] == 1 or not isinstance(error, RuntimeError) or not any(words in text for words in _LOST):
        return None
    return (
        "another process has ended, or not answered, while this one waited for it; see its message, or the launcher's "
        "report, and run the same command again to continue"
    )


def fail(message: str, status: int = 2) -> NoReturn:
    """Print a last message and leave.

    What goes wrong on all processes is told by the main one: the others wait, and are ended by the launcher meanwhile.
    One that is left over has failed alone. Ctrl-C reaches all of them, and the launcher waits for each.
    """
    _, process = launched()
    if process and status == INTERRUPTED:
        raise SystemExit(status) from None
    if process:
        time.sleep(_GRACE_S + _APART_S * (process - 1))
        message = f"process {process}: {message}"
    from tqdm import tqdm

    tqdm.write(message, file=sys.stderr)  # not into the line of a bar that is still open
    raise SystemExit(status) from None
