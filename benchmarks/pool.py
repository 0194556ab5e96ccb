"""One refresh of a candidate pool: ours against NumPy with boolean masks, a permutation and a full sort.

Two tasks on N pairs with given success rates and utilities:

- *refresh, draw, cut*: stratify by success rate, begin a new random order in every stratum, draw N / 10 candidates in
  proportion to the strata, keep the half of greatest utility in each stratum of the candidates (`CandidatePool.refresh`
  and `draw`, `select_top`).
- *cut of the whole pool*: stratify and keep the half of greatest utility in each stratum of all N pairs
  (`assign_strata`, `select_top`).

The peer is what a careful user writes with NumPy: a mask per stratum, `rng.permutation` of its members, `np.argsort` of
their utilities. Given the same candidates both keep the same set, or no time is taken (utilities are continuous, so
there are no ties). Both start from the columns, which are not part of the time; they are part of the memory, which is
the peak of a child process that does the first task once, imports included.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from itertools import count

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.harness import Claim
from sage_dpo.config import PoolSettings
from sage_dpo.core.schedule import allocate
from sage_dpo.core.selection import kept_count, select_top
from sage_dpo.core.strata import assign_strata
from sage_dpo.selection.pool import CandidatePool, Draw

KEEP_RATIO = 0.5
SETTINGS = PoolSettings()
MAX_GB = 2.0

Rows = NDArray[np.int64]


class Columns:
    """N pairs: success rates k / 8, as K = 8 samples of a problem give them, and log-normal utilities."""

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        self.size = size
        self.drawn = size // 10
        self.success_rates = rng.integers(0, 9, size, dtype=np.int8).astype(np.float32) / 8
        self.utilities = rng.lognormal(size=size)


class Ours:
    """The two tasks with the package's functions."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.pool = CandidatePool(columns.size, columns.success_rates, settings=SETTINGS, seed=0)
        self.versions = count(1)

    def refresh_draw_cut(self) -> Rows:
        self.pool.refresh(self.columns.size, self.columns.success_rates, version=next(self.versions))
        return self.cut(self.pool.draw(self.columns.drawn, step=0, progress=0.0))

    def cut(self, draw: Draw) -> Rows:
        keep = kept_count(draw.indices.size, KEEP_RATIO)
        return draw.indices[select_top(self.columns.utilities[draw.indices], keep, strata=draw.strata)]

    def whole_cut(self) -> Rows:
        strata = assign_strata(self.columns.success_rates, easy_min=SETTINGS.easy_min, hard_max=SETTINGS.hard_max)
        return select_top(self.columns.utilities, kept_count(self.columns.size, KEEP_RATIO), strata=strata)


class Peer:
    """The two tasks with masks, permutations and sorts."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.rng = np.random.default_rng(0)

    def refresh_draw_cut(self) -> Rows:
        orders = [self.rng.permutation(np.flatnonzero(mask)) for mask in self.masks(self.columns.success_rates)]
        sizes = [order.size for order in orders]
        counts = allocate(self.columns.drawn, sizes, sizes)
        drawn = np.concatenate([order[:count] for order, count in zip(orders, counts, strict=True)])
        return self.cut(self.rng.permutation(drawn))

    def cut(self, drawn: Rows) -> Rows:
        return drawn[self.best(self.columns.success_rates[drawn], self.columns.utilities[drawn])]

    def whole_cut(self) -> Rows:
        return self.best(self.columns.success_rates, self.columns.utilities)

    def best(self, success_rates: NDArray[np.float32], utilities: NDArray[np.float64]) -> Rows:
        masks = self.masks(success_rates)
        sizes = [int(mask.sum()) for mask in masks]
        kept = []
        for mask, keep in zip(masks, allocate(kept_count(sum(sizes), KEEP_RATIO), sizes, sizes), strict=True):
            rows = np.flatnonzero(mask)
            kept.append(rows[np.argsort(-utilities[rows])[:keep]])
        return np.sort(np.concatenate(kept))

    def masks(self, success_rates: NDArray[np.float32]) -> list[NDArray[np.bool_]]:
        is_easy, is_hard = success_rates >= SETTINGS.easy_min, success_rates < SETTINGS.hard_max
        return [is_easy, ~is_easy & ~is_hard, is_hard]


def check(columns: Columns) -> None:
    """Raise unless both keep the same pairs of the same candidates."""
    ours, peer = Ours(columns), Peer(columns)
    draw = ours.pool.draw(columns.drawn, step=0, progress=0.0)
    if not np.array_equal(np.sort(ours.cut(draw)), np.sort(peer.cut(draw.indices))):
        raise RuntimeError("the two versions keep different pairs of the same candidates")
    if not np.array_equal(ours.whole_cut(), peer.whole_cut()):
        raise RuntimeError("the two versions keep different pairs of the whole pool")
    if ours.refresh_draw_cut().size != peer.refresh_draw_cut().size:
        raise RuntimeError("the two versions keep different numbers of pairs")


def peak_memory_gb(name: str, size: int) -> float:
    """Return the peak resident memory of a new process that does the first task once."""
    program = f"from benchmarks import pool; pool.{name}(pool.Columns({size})).refresh_draw_cut(); pool.print_peak()"
    reply = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return float(reply.stdout) / 1e9


def print_peak() -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak if sys.platform == "darwin" else 1024 * peak)


def hundred_times(task: Callable[[], Rows]) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(100):
            task()

    return repeat


def benchmark(quick: bool) -> list[Claim]:
    """Return the claims about time, its growth with N, and memory."""
    exponent = 6 if quick else 7
    size, name = 10**exponent, f"10^{exponent}"
    # First, while this process is small: Linux counts the parent's memory at the time of the fork in the child's peak.
    ours_gb, peer_gb = peak_memory_gb("Ours", size), peak_memory_gb("Peer", size)
    check(Columns(10**5 + 7))
    columns = Columns(size)
    check(columns)  # a warm-up as well
    ours, peer, ours_small = Ours(columns), Peer(columns), Ours(Columns(size // 100))
    claims = []
    for task, text in (("refresh_draw_cut", "refresh, draw, cut"), ("whole_cut", "cut of the whole pool")):
        seconds = harness.interleave(
            {
                "ours": getattr(ours, task),
                "peer": getattr(peer, task),
                "small": hundred_times(getattr(ours_small, task)),
            },
            repetitions=5,
        )
        growth = f"{text}: {name} pairs once against 10^{exponent - 2} pairs 100 times, both ours"
        claims += [
            harness.cost_claim(
                f"{text}, N = {name}", ours=seconds["ours"], peer=seconds["peer"], unit="s", required=2.0
            ),
            harness.cost_claim(growth, ours=seconds["ours"], peer=seconds["small"], unit="s", required=0.67),
        ]
    return [
        *claims,
        harness.cost_claim(f"peak memory, N = {name}", ours=ours_gb, peer=peer_gb, unit="GB"),
        harness.cost_claim(
            f"peak memory against {MAX_GB:g} GB, N = {name}", ours=ours_gb, peer=MAX_GB, unit="GB", required=1.0
        ),
    ]


if __name__ == "__main__":
    harness.run(benchmark, name="pool")
