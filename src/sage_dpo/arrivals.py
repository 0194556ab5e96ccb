"""Who of several processes does not come where all meet: told now and then, and an error after a time that can be set.

Each process leaves a mark in the store of its process group, which is the same for gloo and NCCL; a collective
operation of theirs tells only that it took too long.
"""

from __future__ import annotations

import os
import platform
import sys
import time

from torch.distributed import Store
from tqdm import tqdm

from sage_dpo.errors import ConfigError, ProcessError

TIMEOUT_VARIABLE = "SAGE_DPO_TIMEOUT_S"
TIMEOUT_S = 24 * 3600.0
"""How long a process waits for another unless the variable says otherwise: a server that the main one asks alone may
sample for hours. Where a process dies, the launcher ends the others at once."""

_REPORT_S = 600.0
_LONGEST_PAUSE_S = 1.0
_PREFIX = "sage-dpo"


def chosen_timeout_s() -> float:
    """Return how long a process waits for another, in seconds.

    Raises:
        ConfigError: the variable holds no positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text or TIMEOUT_S)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:  # NaN as well
        raise ConfigError(f"{TIMEOUT_VARIABLE} is {text!r}, expected seconds, as 3600; set it so, or unset it")
    return seconds


class Arrivals:
    """Where the processes of a run meet.

    Args:
        store: that all of them see.
        count: how many.
        index: of this one.
        timeout_s: how long the others are waited for.
    """

    def __init__(self, store: Store, count: int, index: int, timeout_s: float) -> None:
        self._store, self._count, self._index, self.timeout_s = store, count, index, timeout_s
        self._meetings = 0
        store.set(f"{_PREFIX}/who/{index}", f"pid {os.getpid()} on {platform.node()}")

    def meet(self, what: str, *, within_s: float | None = None) -> None:
        """Wait until all processes have called this as often; of those that wait, the first one says for whom.

        Args:
            what: is waited for, a noun.
            within_s: instead of the timeout.

        Raises:
            ProcessError: some have not come in time; names them.
        """
        self._meetings += 1
        keys = [f"{_PREFIX}/{self._meetings}/{index}" for index in range(self._count)]
        self._store.set(keys[self._index], "")
        started = reported = time.monotonic()
        pause = 0.001
        while not self._store.check(keys):
            now = time.monotonic()
            absent = [index for index, key in enumerate(keys) if not self._store.check([key])]
            if absent and now - started >= (within_s or self.timeout_s):
                raise ProcessError(self._late(absent, what))
            if absent and now - reported >= min(_REPORT_S, self.timeout_s / 4):
                reported = now
                if self._index == min({*range(self._count)} - {*absent}):
                    self._say(f"waiting for {self._names(absent)} since {now - started:.0f} s: {what}")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _late(self, absent: list[int], what: str) -> str:
        return (
            f"{self._names(absent)} did not come within {self.timeout_s:g} s ({TIMEOUT_VARIABLE}), where the others "
            f"wait for {what}; if it hangs, run the same command again to continue; if it was still at work, set "
            f"{TIMEOUT_VARIABLE} higher"
        )

    def _names(self, absent: list[int]) -> str:
        return ", ".join(f"process {index}{self._place(index)}" for index in absent)

    def _place(self, index: int) -> str:
        key = f"{_PREFIX}/who/{index}"
        return f" ({self._store.get(key).decode()})" if self._store.check([key]) else ""

    def _say(self, text: str) -> None:
        tqdm.write(f"process {self._index}: {text}" if self._index else text, file=sys.stderr)  # not into a bar's line
