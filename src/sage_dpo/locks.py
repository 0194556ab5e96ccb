"""One writer at a time: a lock that ends with its process, however that ends, and who holds it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sage_dpo.errors import RunFolderError, SageError
from sage_dpo.storage import read_json, write_json


@contextlib.contextmanager
def sole_writer(output: Path, lock: Path, *, is_kept: bool = True) -> Iterator[None]:
    """Hold an output against other processes that want to write it. Of several ranks the main one alone holds it.

    Args:
        output: file or folder, as the user knows it.
        lock: the file that is locked; its folder is created if needed. Who holds it stands beside it meanwhile.
        is_kept: leave the file. Deleted while it is held, it lets nobody in: filelock goes by the file, not its name.

    Raises:
        RunFolderError: another process holds it, which is named.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise RunFolderError(
            f"another process{_holder(lock)} is writing {output}; wait until it has ended, or give another `--output`"
        ) from None
    try:
        write_json(holder_path(lock), {"pid": os.getpid(), "host": platform.node()})
        yield
    finally:
        holder_path(lock).unlink(missing_ok=True)
        if not is_kept:
            lock.unlink(missing_ok=True)
        held.release()


def holder_path(lock: Path) -> Path:
    """Where it is written who holds a lock."""
    return lock.with_suffix(".holder.json")


def _holder(lock: Path) -> str:
    """Who holds a lock, in words; empty where that cannot be read."""
    try:
        holder = read_json(holder_path(lock))
        return f" (pid {holder['pid']} on {holder['host']})"
    except (SageError, KeyError, TypeError):
        return ""
