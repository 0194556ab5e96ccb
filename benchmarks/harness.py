"""What every benchmark shares: interleaved repetitions, the table it prints, the JSON it writes, the command line."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from sage_dpo.storage import write_json

_IN_CHILD = "--in-child"
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""glibc gives blocks above a threshold back when they are freed, and raises it by what is freed, to 32 MiB: without a
fixed one, memory measures what was freed before, differently from run to run."""


@dataclass(frozen=True)
class Claim:
    """One line of a benchmark.

    Attributes:
        claim: what is compared, with the conditions that differ between lines.
        ratio: how many times better ours is than the peer: above 1 is better.
        required: the ratio aimed at, or `None` for a line that only informs.
        ours, peer: medians over the repetitions.
        unit: of `ours` and `peer`.
    """

    claim: str
    ratio: float
    required: float | None
    ours: float
    peer: float
    unit: str

    @property
    def is_met(self) -> bool:
        return self.required is None or self.ratio >= self.required


def rate_claim(claim: str, *, ours: float, peer: float, unit: str, required: float | None = None) -> Claim:
    """Return a claim about rates (more is better)."""
    return Claim(claim, ours / peer, required, ours, peer, unit)


def cost_claim(claim: str, *, ours: float, peer: float, unit: str, required: float | None = None) -> Claim:
    """Return a claim about seconds, bytes or padding (less is better)."""
    return Claim(claim, peer / ours, required, ours, peer, unit)


def interleave(candidates: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Time several functions in turns and return the median seconds of each.

    In turns, so that a machine that slows down for a while slows all of them. Call each once before, to warm up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for repetition in range(repetitions):
        names = list(candidates)
        for name in names if repetition % 2 == 0 else reversed(names):
            start = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory_added(function: Callable[[], Any]) -> float:
    """Call `function` and return by how many MiB this process's resident memory rose meanwhile, at its peak.

    Sampled every millisecond. Use a process of its own for each measurement: memory that an earlier one left to the
    allocator would not be seen.
    """
    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return (peak - before) / 2**20


@contextlib.contextmanager
def counted_tokens(model: Any, *, training: bool) -> Iterator[list[int]]:
    """Yield a list that receives the padded tokens of every forward pass in training (else: evaluation) mode."""
    counts: list[int] = []

    def count(module: Any, inputs: Any, _output: Any) -> None:
        if module.training == training:
            counts.append(inputs[0].numel())

    handle = model.get_input_embeddings().register_forward_hook(count)
    try:
        yield counts
    finally:
        handle.remove()


def run_in_child(name: str, *arguments: int) -> float:
    """Return what `python -m benchmarks.NAME` answers to integer arguments, see `in_child` of `run`.

    The process gives back what it frees, in blocks of 1 MiB or more (Linux).
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", _IN_CHILD, *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | _ALLOCATOR)
    return float(result.stdout.split()[-1])


def format_claims(claims: Sequence[Claim]) -> str:
    """Return a table of the claims in Markdown."""
    rows = [["claim", "ours", "peer", "unit", "ratio", "aim", ""]]
    for claim in claims:
        aim = "" if claim.required is None else f"{claim.required:g}"
        verdict = "" if claim.required is None else ("met" if claim.is_met else "not met")
        rows.append(
            [claim.claim, _number(claim.ours), _number(claim.peer), claim.unit, f"{claim.ratio:.2f}", aim, verdict]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers: processor, threads, versions."""
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "trl")},
    }


def run(
    benchmark: Callable[[bool], list[Claim]],
    *,
    name: str,
    in_child: Callable[..., float] | None = None,
    arguments: Sequence[str] | None = None,
    parents: Sequence[argparse.ArgumentParser] = (),
) -> None:
    """Parse `--quick` and `--json`, run `benchmark(quick)`, print its table, and write the JSON.

    Args:
        benchmark: returns the claims.
        name: of the module in this package.
        in_child: what `run_in_child` calls, in a fresh process: measures memory, MiB.
        arguments: of the command line; `None` takes this process's.
        parents: know options of this benchmark alone, which it has read itself and left out of `arguments`.
    """
    if in_child is not None and sys.argv[1:2] == [_IN_CHILD]:
        print(in_child(*map(int, sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=sys.modules["__main__"].__doc__, parents=list(parents)
    )
    parser.add_argument("--json", type=Path, help="write the claims here, as a list of objects")
    parser.add_argument("--quick", action="store_true", help="smaller data, within a minute; ratios are rougher")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    claims = benchmark(options.quick)
    print(format_claims(claims))
    print(f"\n{', '.join(f'{key} {value}' for key, value in environment().items())}")
    print(f"{time.perf_counter() - start:.0f} s{', --quick' if options.quick else ''}")
    if options.json:
        write_json(options.json, [asdict(claim) for claim in claims])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
