"""The processes of a run, started by `torchrun` or `accelerate launch`: who does what, who writes, what all agree on.

Every stage runs on all processes. Each does its share and gets what all have done; the main process alone writes, but
for each one's part of a checkpoint and its completions as they come. The exchange is accelerate's.
"""

from __future__ import annotations

import itertools
import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import (
    broadcast_object_list,
    disable_fsdp_ram_efficient_loading,
    gather_object,
    is_deepspeed_available,
    parse_flag_from_env,
)
from torch.distributed import PrefixStore

from sage_dpo.arrivals import Arrivals, chosen_timeout_s
from sage_dpo.digests import file_sha256
from sage_dpo.errors import ConfigError, ProcessError, SageError
from sage_dpo.inputs import flatten

ANYTHING = "what they do together"

Item = TypeVar("Item")
Result = TypeVar("Result")

_TIMED_OUT = "Timed out waiting"
"""What gloo says of a process that does not take part in an operation of all."""

_TO_BE_HEARD_S = 30.0
"""For those that take part to say so after such a timeout, which they may have met at different times; at most half of
the timeout."""


class Processes:
    """The processes that do the same work, and this one's place among them.

    What a method exchanges it exchanges with all: each must be called on every process, in the same order.

    Args:
        count: how many.
        index: of this one; the main process is 0.
        arrivals: where they meet before they exchange something; `None` where one is alone.

    Raises:
        ProcessError: by each method that exchanges something, where a process does not come in time.
    """

    def __init__(self, count: int = 1, index: int = 0, arrivals: Arrivals | None = None) -> None:
        self.count, self.index, self._arrivals = count, index, arrivals

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def share_of(self, items: Sequence[Item]) -> list[Item]:
        """Return this process's part of the items: equal parts but for one item, in order."""
        if self.count == 1:
            return list(items)
        with PartialState().split_between_processes(list(items)) as mine:
            return list(mine)

    def gathered(self, items: Sequence[Item], what: str = ANYTHING) -> list[Item]:
        """Return the items of all processes, those of the first process first; `what` they are is said to who waits."""
        if self.count == 1:
            return list(items)
        self._meet(what)
        return list(gather_object(list(items)))

    def on_main(self, work: Callable[[], Result], what: str = ANYTHING) -> Result:
        """Return what `work` returns on the main process, which alone does it; `what` is said to who waits for it.

        What it raises it raises there; the launcher then ends the other processes.
        """
        if self.count == 1:
            return work()
        done = work() if self.is_main else None
        self._meet(what)
        result: list[Any] = broadcast_object_list([done])
        return result[0]

    @contextmanager
    def first_of_machine(self, what: str = ANYTHING) -> Iterator[None]:
        """Let one process of each machine through, and then the others; `what` it gets is said to those."""
        is_first = self.count == 1 or PartialState().is_local_main_process
        if not is_first:
            self.wait(what)
        yield
        if is_first:
            self.wait(what)

    def wait(self, what: str = ANYTHING) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            self._meet(what)
            PartialState().wait_for_everyone()  # so that none that holds the store leaves while another looks into it

    def _meet(self, what: str) -> None:
        if self._arrivals is not None:
            self._arrivals.meet(what)

    @contextmanager
    def naming_the_absent(self, what: str) -> Iterator[None]:
        """Say who it was where a process does not take part in what the others do together inside, as in training.

        Raises:
            ProcessError: some are not heard of any more; names them.
        """
        try:
            yield
        except RuntimeError as error:
            is_ours = isinstance(error, SageError)
            if self._arrivals is not None and _TIMED_OUT in str(error) and not is_ours:
                self._arrivals.meet(what, within_s=min(_TO_BE_HEARD_S, self._arrivals.timeout_s / 2))
            raise

    def agree(self, what: str, values: Mapping[str, Any], *, remedy: str) -> None:
        """Compare values, nested mappings, with those of the other processes.

        Raises:
            ProcessError: one differs; names it, with both values, and the remedy. On all processes.
        """
        first, *others = self.gathered([flatten(values)], what)
        for index, found in enumerate(others, start=1):
            names = [name for name in dict.fromkeys([*first, *found]) if first.get(name) != found.get(name)]
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise ProcessError(
                    f"{what} differs between processes: {names[0]}{more} is {found.get(names[0])} on process {index}, "
                    f"expected {first.get(names[0])} as on process 0; {remedy}"
                )

    def require_shared(self, path: Path) -> None:
        """Raise where another process does not see the file that the main process wrote.

        Raises:
            ProcessError: names the process and its machine. On all processes.
        """
        self.wait()
        places = self.gathered([(platform.node(), file_sha256(path) if path.is_file() else None)])
        written = places[0][1]
        for index, (machine, seen) in enumerate(places):
            if seen != written:
                raise ProcessError(
                    f"process {index} on {machine} {'sees another' if seen else 'does not see'} {path}, which process "
                    "0 wrote; put the run folder (`--output`, output_dir) on a file system that all machines share, "
                    "under the same path"
                )


ONE = Processes()
"""The only process."""

_STARTS = itertools.count()


def start_processes() -> Processes:
    """Join the processes that the launcher has started; the main one alone warns and shows progress.

    Raises:
        ConfigError: the launcher asks for DeepSpeed, which is not installed; or the timeout is none.
    """
    timeout_s = chosen_timeout_s()
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and not is_deepspeed_available():
        raise ConfigError(
            "the launcher's configuration asks for DeepSpeed, which is not installed; install it with `pip install "
            "'sage-dpo[deepspeed]'`, or use another one, as of `sage-dpo recipes show accelerate/fsdp2`"
        )
    is_named = "ACCELERATE_TORCH_DEVICE" in os.environ
    if "LOCAL_RANK" in os.environ and not is_named and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # transformers reads it as well; each would train alone without it
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        disable_fsdp_ram_efficient_loading()  # the first pool is sampled before FSDP: each needs all the weights
    is_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    state = PartialState(cpu=is_cpu, timeout=timedelta(seconds=timeout_s))
    processes = _meeting(state.num_processes, state.process_index, timeout_s)
    if not processes.is_main:
        import datasets

        logging.disable(logging.WARNING)
        warnings.filterwarnings("ignore")
        datasets.disable_progress_bars()
    return processes


def _meeting(count: int, index: int, timeout_s: float) -> Processes:
    """Return the processes of the group that has been joined; each start, which all make, with marks of its own."""
    group = torch.distributed.group.WORLD if count > 1 else None
    if group is None:
        return Processes()
    store = PrefixStore(f"start-{next(_STARTS)}", group.get_group_store())
    return Processes(count, index, Arrivals(store, count, index, timeout_s))


def share_evenly(what: str, number: int, processes: int) -> int:
    """Return a process's part of a number that holds for all of them.

    Raises:
        ConfigError: it cannot be divided.
    """
    share, rest = divmod(number, processes)
    if rest:
        below = number - rest
        nearest = f"{below} or {below + processes}" if below else f"{processes}"
        raise ConfigError(
            f"{what} is {number}, which {processes} processes cannot share equally; set it to a multiple of "
            f"{processes}, as {nearest}, or start another number of processes"
        )
    return share
