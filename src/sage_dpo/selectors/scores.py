"""What a selector is shown of one step's candidates: columns of numbers. No torch import."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sage_dpo.errors import NumericalError

Column = NDArray[np.float64] | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """What one forward pass says about N candidate pairs: columns `[N]`.

    Attributes:
        chosen_logps, rejected_logps: log-probability of the completion under the policy, summed over tokens, nats.
        chosen_lengths, rejected_lengths: completion lengths in tokens, >= 1.
        chosen_informativeness, rejected_informativeness: sum over tokens of `core.utility.token_informativeness`;
            `None` unless the selector `needs_informativeness`.
        ref_chosen_logps, ref_rejected_logps: the same log-probabilities under the reference; `None` unless the
            selector `needs_reference`.

    Raises:
        ValueError: a column is not one-dimensional or columns differ in length.
    """

    chosen_logps: Column
    rejected_logps: Column
    chosen_lengths: Column
    rejected_lengths: Column
    chosen_informativeness: Column | None = None
    rejected_informativeness: Column | None = None
    ref_chosen_logps: Column | None = None
    ref_rejected_logps: Column | None = None

    def __post_init__(self) -> None:
        shapes = {f.name: c.shape for f in fields(self) if (c := getattr(self, f.name)) is not None}
        if len(set(shapes.values())) != 1 or len(shapes["chosen_logps"]) != 1:
            raise ValueError(f"candidate score columns have shapes {shapes}, expected one shape [N] for all of them")

    def __len__(self) -> int:
        return len(self.chosen_logps)

    @classmethod
    def of_completions(
        cls,
        logps: Column,
        lengths: Column,
        informativeness: Column | None = None,
        *,
        ref_logps: Column | None = None,
    ) -> CandidateScores:
        """Return the columns of N pairs from those of their 2 N completions, all chosen, then all rejected."""
        half = len(logps) // 2
        columns = [None if c is None else (c[:half], c[half:]) for c in (logps, lengths, informativeness, ref_logps)]
        return cls(*(side for column in columns for side in column or (None, None)))  # type: ignore[arg-type]

    def column(self, name: str, *, needed_for: str) -> NDArray[np.float64]:
        """Return one column as float64.

        Raises:
            ValueError: the column is absent.
            NumericalError: a value is NaN or infinite.
        """
        values: Column | None = getattr(self, name)
        if values is None:
            raise ValueError(f"candidate scores have no {name}, needed for {needed_for}; let the scorer compute it")
        bad = np.flatnonzero(~np.isfinite(values)).tolist()
        if bad:
            raise NumericalError(
                f"{len(bad)} of {len(values)} values of {name} are NaN or infinite, at rows {bad[:8]}; "
                "lower the learning rate, or check these pairs' tokens"
            )
        return np.asarray(values, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Candidates:
    """The N candidates of one optimizer step.

    Attributes:
        count: N, >= 1.
        scores: their columns; `None` where the selector has `needs_scores` off.
        strata: `[N]` stratum codes (`core.strata`), or `None` when strata are off.
        gate: pairs with a margin above it are shut; `None` leaves all open.
        rng: the only source of randomness; keyed by (seed, pool version, step), so that a resumed run and every
            process of a distributed one choose alike.

    Raises:
        ValueError: sizes disagree.
    """

    count: int
    rng: np.random.Generator
    scores: CandidateScores | None = None
    strata: NDArray[np.int8] | None = None
    gate: float | None = None

    def __post_init__(self) -> None:
        if self.scores is not None and len(self.scores) != self.count:
            raise ValueError(
                f"scores have {len(self.scores)} rows for {self.count} candidates; score every candidate exactly once"
            )
        if self.strata is not None and self.strata.shape != (self.count,):
            raise ValueError(
                f"strata have shape {self.strata.shape} for {self.count} candidates, expected ({self.count},)"
            )


@dataclass(frozen=True, eq=False)
class Ranking:
    """A selector's answer: what the cut sorts by, and the numbers behind it; `[N]` float64 each, in candidate order.

    Attributes:
        priority: the largest are kept. Log-utility for `sage` (no overflow, hence no false ties).
        margin: the margin used, scaled nats. It decides among equal priorities, lowest first, and the gate reads
            it. `None` where nothing was scored; then the others are `None` too, and logged as NaN.
        gradient_signal, curvature, informativeness: g, h, J of docs/method.md (J = 1 when the selector ignores it).
        utility: what the selector maximises, for people and logs; finite (clamped to the float64 range).
    """

    priority: NDArray[np.float64]
    margin: NDArray[np.float64] | None = None
    gradient_signal: NDArray[np.float64] | None = None
    curvature: NDArray[np.float64] | None = None
    informativeness: NDArray[np.float64] | None = None
    utility: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Selection:
    """Which candidates are trained on.

    Attributes:
        kept: sorted int64 indices into the candidates; as many as were asked for, or fewer.
        ranking: the numbers behind it.
        is_open: `[N]`, which candidates the gate leaves open; `None` without a gate.
    """

    kept: NDArray[np.int64]
    ranking: Ranking
    is_open: NDArray[np.bool_] | None = None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """`[N]`, true for the kept."""
        mask = np.zeros(len(self.ranking.priority), dtype=bool)
        mask[self.kept] = True
        return mask
