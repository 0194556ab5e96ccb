"""The candidate pool: which pairs are candidates at which optimizer step.

The pool knows its N pairs by column only (no records, no loop over pairs): a stratum code per pair, and per stratum
an endless walk through shuffled cycles. Every pair of a stratum is drawn once before any is drawn twice. Cursors are
the whole state, so a checkpoint holds a few integers and a resumed run draws what the uninterrupted one would have.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.config import PoolSettings
from sage_dpo.core.schedule import allocate, competence_position, stratum_weights
from sage_dpo.core.strata import STRATA, assign_strata
from sage_dpo.errors import EmptyPoolError

_CYCLE_STREAM, _ORDER_STREAM = 0x4359434C, 0x4F524445  # keep keys apart, also from callers' (seed, version, step)
_SHUFFLED_AT_ONCE, _PARTS = 2**16, 16  # pairs of a stratum; parts that a larger one is shuffled in


@dataclass(frozen=True, eq=False)
class Draw:
    """One optimizer step's candidates.

    Attributes:
        indices: `[count]` int64 pair indices, distinct, in an order that mixes the strata.
        strata: `[count]` int8 stratum codes (`core.strata.STRATA`), or `None` when the pool is not stratified.
    """

    indices: NDArray[np.int64]
    strata: NDArray[np.int8] | None


class CandidatePool:
    """N candidate pairs, by column.

    Args:
        size: number of pairs N, >= 1.
        success_rates: `[N]` in [0, 1]; required when `settings.stratified`. For pairs that come without one use
            `core.strata.relative_success_rate`.
        settings: see `config.PoolSettings`.
        seed: of every permutation, together with version, stratum and cycle.
        version: number of refreshes behind this membership.
        competence: mean success rate of the policy on the pool's problems; default is the mean over pairs.

    Raises:
        EmptyPoolError: size < 1.
        ValueError: success rates are absent, invalid or of another length.
    """

    def __init__(
        self,
        size: int,
        success_rates: NDArray[Any] | None = None,
        *,
        settings: PoolSettings,
        seed: int,
        version: int = 0,
        competence: float | None = None,
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.refresh(size, success_rates, version=version, competence=competence)

    def refresh(
        self, size: int, success_rates: NDArray[Any] | None = None, *, version: int, competence: float | None = None
    ) -> None:
        """Replace membership and strata; every walk starts anew. Arguments and errors as for the class."""
        if size < 1:
            raise EmptyPoolError(
                f"candidate pool holds {size} pairs, expected at least 1; sample more completions or use more problems"
            )
        if success_rates is not None and np.shape(success_rates) != (size,):
            raise ValueError(f"success_rates have shape {np.shape(success_rates)} for {size} pairs, expected ({size},)")
        if self.settings.stratified and success_rates is None:
            raise ValueError(
                "a stratified pool got no success rates; pass the column, estimate it from the policy's margins "
                "(core.strata.relative_success_rate), or set stratified to false"
            )
        codes = np.zeros(size, dtype=np.int8)
        if self.settings.stratified and success_rates is not None:
            codes = assign_strata(success_rates, easy_min=self.settings.easy_min, hard_max=self.settings.hard_max)
        if competence is None and success_rates is not None:
            competence = float(np.mean(success_rates, dtype=np.float64))
        position = self._position(0.0, competence)  # validates before anything changes
        self.size, self.version, self.competence = size, version, competence
        self._codes = codes
        index_type = np.int32 if size <= np.iinfo(np.int32).max else np.int64
        members = [np.flatnonzero(codes == code).astype(index_type) for code in range(self._stratum_count)]
        self._walks = [_Walk(rows, key=(self.seed, version, _CYCLE_STREAM, c)) for c, rows in enumerate(members)]
        self._weights = self._weights_at(position)

    def draw(self, count: int, *, step: int, progress: float) -> Draw:
        """Return `count` distinct candidates for one optimizer step and move the cursors on.

        Args:
            count: how many, 1 <= count <= N.
            step: optimizer step; keys the order of the candidates within the draw.
            progress: share of training done, in [0, 1]; moves the schedule unless competence does.

        Raises:
            EmptyPoolError: the pool holds fewer than `count` pairs.
            ValueError: count < 1 or progress outside [0, 1].
        """
        if count < 1 or not 0.0 <= progress <= 1.0:
            raise ValueError(f"draw got count={count}, progress={progress}, expected count >= 1 and progress in [0, 1]")
        if count > self.size:
            raise EmptyPoolError(
                f"{count} candidates wanted of a pool of {self.size} pairs; lower their number or enlarge the pool"
            )
        self._weights = self._weights_at(self._position(progress, self.competence))
        counts = allocate(count, self._weights, self.occupancy)
        drawn = np.concatenate([walk.take(int(n)) for walk, n in zip(self._walks, counts, strict=True)])
        order = _generator(self.seed, self.version, _ORDER_STREAM, step).permutation(count)
        indices = drawn[order].astype(np.int64)
        return Draw(indices, self._codes[indices] if self.settings.stratified else None)

    @property
    def occupancy(self) -> NDArray[np.int64]:
        """`[S]` pairs per stratum."""
        return np.array([walk.size for walk in self._walks], dtype=np.int64)

    def metrics(self) -> dict[str, float]:
        """Return version, size, competence, and per stratum: pairs, share of the last draw's weights, cycles begun."""
        report = {"pool/version": float(self.version), "pool/size": float(self.size)}
        if self.competence is not None:
            report["pool/competence"] = self.competence
        names = [str(s) for s in STRATA] if self.settings.stratified else ["all"]
        for name, walk, weight in zip(names, self._walks, self._weights, strict=True):
            report[f"pool/{name}/pairs"] = float(walk.size)
            report[f"pool/{name}/weight"] = float(weight)
            report[f"pool/{name}/cycle"] = float(walk.cycle)
        return report

    def state_dict(self) -> dict[str, Any]:
        """Return the cursors as JSON-able values; membership itself is not in it (rebuild it from the pool file)."""
        return {
            "seed": self.seed,
            "version": self.version,
            "competence": self.competence,
            "size": self.size,
            "strata_crc32": zlib.crc32(self._codes.data),
            "weights": self._weights.tolist(),
            "walks": [walk.state_dict() for walk in self._walks],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` left off; the pool must have been built from the same columns.

        Version and competence are taken from the state.

        Raises:
            ValueError: size, strata or seed differ from the pool that wrote the state.
        """
        mine = self.state_dict()
        for name in ("seed", "size", "strata_crc32"):
            if state[name] != mine[name]:
                raise ValueError(
                    f"pool state has {name}={state[name]}, this pool {mine[name]}; "
                    "rebuild the pool from the pairs and settings saved with the checkpoint"
                )
        self.version, self.competence = state["version"], state["competence"]
        self._weights = np.array(state["weights"], dtype=np.float64)
        for code, (walk, saved) in enumerate(zip(self._walks, state["walks"], strict=True)):
            walk.load_state_dict(saved, key=(self.seed, self.version, _CYCLE_STREAM, code))

    @property
    def _stratum_count(self) -> int:
        return len(STRATA) if self.settings.stratified else 1

    def _position(self, progress: float, competence: float | None) -> float:
        if self.settings.schedule_by == "progress" or not self.settings.stratified:
            return progress
        if competence is None:
            raise ValueError("schedule_by is 'competence' but the pool has none; pass competence, or use 'progress'")
        bounds = self.settings.competence_start, self.settings.competence_target
        return competence_position(competence, start=bounds[0], target=bounds[1])

    def _weights_at(self, position: float) -> NDArray[np.float64]:
        if not self.settings.stratified:
            return np.ones(1)
        shares = self.occupancy / self.size
        start, end = self.settings.schedule_start, self.settings.schedule_end
        return stratum_weights(shares if start is None else start, shares if end is None else end, position)


class _Walk:
    """An endless walk through one stratum: shuffled cycle after shuffled cycle.

    A draw that crosses into the next cycle must not repeat a pair of its own first part. So the next cycle's
    permutation is amended: its first pairs are the first ones not in that part (`carry`), the rest follows in order.
    """

    def __init__(self, rows: NDArray[Any], *, key: tuple[int, ...]) -> None:
        self.size = int(rows.size)
        self.cycle = 0
        self._rows, self._key = rows, key
        self._cursor = 0
        self._carry: list[int] = []  # positions in `rows` drawn from the last cycle by the draw that crossed over
        self._crossed = 0  # how many that draw then took from this cycle
        self._order: _Shuffle | None = None  # made when first needed: a pool that is only inspected costs nothing

    def take(self, count: int) -> NDArray[Any]:
        """Return the next `count` rows, all distinct; count <= size."""
        if count == 0:
            return self._rows[:0]
        taken = self._ahead(count)
        self._cursor += taken.size
        missing = count - taken.size
        if missing:
            self.cycle, self._cursor = self.cycle + 1, missing
            self._carry, self._crossed, self._order = taken.tolist(), missing, None
            taken = np.concatenate([taken, self._ahead(missing, start=0)])
        rows: NDArray[Any] = self._rows[taken]
        return rows

    def state_dict(self) -> dict[str, Any]:
        return {"cycle": self.cycle, "cursor": self._cursor, "carry": self._carry, "crossed": self._crossed}

    def load_state_dict(self, state: dict[str, Any], *, key: tuple[int, ...]) -> None:
        self.cycle, self._cursor = state["cycle"], state["cursor"]
        self._carry, self._crossed = list(state["carry"]), state["crossed"]
        self._key, self._order = key, None

    def _ahead(self, count: int, start: int | None = None) -> NDArray[Any]:
        """Return this cycle's next `count` positions from the cursor (or `start`) on, fewer where it ends."""
        if self._order is None:
            self._order = _Shuffle(self.size, _generator(*self._key, self.cycle), self._rows.dtype)
            if self._carry:
                # At most len(carry) of these are in it, so the window holds enough others.
                window = self._order[: self._crossed + len(self._carry)]
                is_carried = np.isin(window, self._carry)
                first = window[~is_carried][: self._crossed]
                window[:] = np.concatenate([first, window[~np.isin(window, first)]])
        start = self._cursor if start is None else start
        return self._order[start : start + count]


class _Shuffle:
    """A uniformly random order of 0 .. size - 1, computed as far as it is read.

    Many pairs are first dealt at random into parts, and a part is shuffled when a slice reaches it. That gives every
    order with equal probability, as shuffling all at once does (Rao 1961, Sandelius 1962), and parts fit the cache.
    """

    def __init__(self, size: int, generator: np.random.Generator, dtype: np.dtype[Any]) -> None:
        self._generator = generator
        self._order = np.empty(size, dtype=dtype)
        self._done = self._next_part = 0
        is_small = size <= _SHUFFLED_AT_ONCE
        self._parts = None if is_small else np.frombuffer(generator.bytes(size), dtype=np.uint8) % _PARTS

    def __getitem__(self, places: slice) -> NDArray[Any]:
        """Return a view of the order; what is written to it stays."""
        start, stop, _ = places.indices(self._order.size)
        while self._done < stop:
            self._shuffle_next_part()
        return self._order[start:stop]

    def _shuffle_next_part(self) -> None:
        if self._parts is None:
            members = np.arange(self._order.size, dtype=self._order.dtype)
        else:
            members = np.flatnonzero(self._parts == self._next_part).astype(self._order.dtype)
        self._generator.shuffle(members)
        self._order[self._done : self._done + members.size] = members
        self._done, self._next_part = self._done + members.size, self._next_part + 1


def _generator(*key: int) -> np.random.Generator:
    """Return a counter-based generator; equal keys give equal streams on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
