"""The processes of a run, started by `torchrun` or `accelerate launch`: who does what, who writes, what all agree on.

Every stage runs on all processes. Each does its share and gets what all have done; the main process alone writes, but
for each one's part of a checkpoint and its completions as they come. The exchange is accelerate's.
"""

from __future__ import annotations

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

from sage_dpo.digests import file_sha256
from sage_dpo.errors import ConfigError, ProcessError
from sage_dpo.inputs import flatten

Item = TypeVar("Item")
Result = TypeVar("Result")

WAIT_S = 7 * 24 * 3600
"""How long a process waits for another. Where one dies, the launcher ends the others; a server may sample for days."""


class Processes:
    """The processes that do the same work, and this one's place among them.

    What a method exchanges it exchanges with all: each must be called on every process, in the same order.

    Args:
        count: how many.
        index: of this one; the main process is 0.
    """

    def __init__(self, count: int = 1, index: int = 0) -> None:
        self.count, self.index = count, index

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def share_of(self, items: Sequence[Item]) -> list[Item]:
        """Return this process's part of the items: equal parts but for one item, in order."""
        if self.count == 1:
            return list(items)
        with PartialState().split_between_processes(list(items)) as mine:
            return list(mine)

    def gathered(self, items: Sequence[Item]) -> list[Item]:
        """Return the items of all processes, those of the first process first."""
        return list(items) if self.count == 1 else list(gather_object(list(items)))

    def on_main(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns on the main process, which alone does it.

        What it raises it raises there; the launcher then ends the other processes.
        """
        if self.count == 1:
            return work()
        result: list[Any] = broadcast_object_list([work() if self.is_main else None])
        return result[0]

    @contextmanager
    def first_of_machine(self) -> Iterator[None]:
        """Let one process of each machine through, and then the others."""
        if self.count == 1:
            yield
            return
        with PartialState().local_main_process_first():
            yield

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            PartialState().wait_for_everyone()

    def agree(self, what: str, values: Mapping[str, Any], *, remedy: str) -> None:
        """Compare values, nested mappings, with those of the other processes.

        Raises:
            ProcessError: one differs; names it, with both values, and the remedy. On all processes.
        """
        first, *others = self.gathered([flatten(values)])
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


def start_processes(*, timeout_s: float = WAIT_S) -> Processes:
    """Join the processes that the launcher has started; the main one alone warns and shows progress.

    Args:
        timeout_s: how long one waits for another.

    Raises:
        ConfigError: the launcher asks for DeepSpeed, which is not installed.
    """
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and not is_deepspeed_available():
        raise ConfigError(
            "the launcher's configuration asks for DeepSpeed, which is not installed; install it with `pip install "
            "deepspeed`, or use another one, as of `sage-dpo recipes show accelerate/fsdp2`"
        )
    is_named = "ACCELERATE_TORCH_DEVICE" in os.environ
    if "LOCAL_RANK" in os.environ and not is_named and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # transformers reads it as well; each would train alone without it
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        disable_fsdp_ram_efficient_loading()  # the first pool is sampled before FSDP: each needs all the weights
    is_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    state = PartialState(cpu=is_cpu, timeout=timedelta(seconds=timeout_s))
    processes = Processes(state.num_processes, state.process_index)
    if not processes.is_main:
        import datasets

        logging.disable(logging.WARNING)
        warnings.filterwarnings("ignore")
        datasets.disable_progress_bars()
    return processes


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
