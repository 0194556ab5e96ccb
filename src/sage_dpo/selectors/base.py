"""What a selector is: what it is shown, what it answers. Its settings are `config.SelectorSettings`. No torch import.

The trainer shows a selector the columns of one candidate batch and trains on the pairs it keeps:

    selector = make_selector(SelectorSettings(selector="sage"))
    selection = selector.select(scores, count=64, keep=32, strata=draw.strata, rng=generator)
    selection.kept   # 32 sorted indices into the 64 candidates
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sage_dpo.config import SelectorSettings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CandidateScores", "Ranking", "Selection", "Selector", "SelectorSettings", "check_request"]


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """What one forward pass says about N candidate pairs: columns `[N]`, numpy or torch.

    Attributes:
        chosen_logps, rejected_logps: log-probability of the completion under the policy, summed over tokens, nats.
        chosen_lengths, rejected_lengths: completion lengths in tokens, >= 1.
        chosen_informativeness, rejected_informativeness: sum over tokens of `core.utility.token_informativeness`;
            `None` unless the selector uses it (`needs_informativeness`).
        ref_chosen_logps, ref_rejected_logps: the same log-probabilities under the reference; `None` unless the
            selector `needs_reference`.

    Raises:
        ValueError: a column is not one-dimensional or columns differ in length.
    """

    chosen_logps: Tensor | NDArray[Any]
    rejected_logps: Tensor | NDArray[Any]
    chosen_lengths: Tensor | NDArray[Any]
    rejected_lengths: Tensor | NDArray[Any]
    chosen_informativeness: Tensor | NDArray[Any] | None = None
    rejected_informativeness: Tensor | NDArray[Any] | None = None
    ref_chosen_logps: Tensor | NDArray[Any] | None = None
    ref_rejected_logps: Tensor | NDArray[Any] | None = None

    def __post_init__(self) -> None:
        shapes = {f.name: tuple(c.shape) for f in fields(self) if (c := getattr(self, f.name)) is not None}
        if len(set(shapes.values())) != 1 or len(shapes["chosen_logps"]) != 1:
            raise ValueError(f"candidate score columns have shapes {shapes}, expected one shape [N] for all of them")

    def __len__(self) -> int:
        return int(self.chosen_logps.shape[0])

    @classmethod
    def of_completions(
        cls,
        logps: NDArray[Any],
        lengths: NDArray[Any],
        informativeness: NDArray[Any],
        *,
        ref_logps: NDArray[Any] | None = None,
    ) -> CandidateScores:
        """Return the columns of N pairs from those of their 2 N completions, all chosen, then all rejected."""
        half = len(logps) // 2
        return cls(
            chosen_logps=logps[:half],
            rejected_logps=logps[half:],
            chosen_lengths=lengths[:half],
            rejected_lengths=lengths[half:],
            chosen_informativeness=informativeness[:half],
            rejected_informativeness=informativeness[half:],
            ref_chosen_logps=None if ref_logps is None else ref_logps[:half],
            ref_rejected_logps=None if ref_logps is None else ref_logps[half:],
        )


@dataclass(frozen=True, eq=False)
class Ranking:
    """What a scored selector computed for each candidate; `[N]` float64 each, in candidate order.

    Attributes:
        margin: the margin used, scaled nats.
        gradient_signal, curvature, informativeness: g, h, J of docs/method.md (J = 1 when the selector ignores it).
        utility: what the selector maximises, for people and logs; finite (clamped to the float64 range).
        priority: what the cut sorts by, largest first: log-utility for `sage` (no overflow, hence no false ties).
    """

    margin: NDArray[np.float64]
    gradient_signal: NDArray[np.float64]
    curvature: NDArray[np.float64]
    informativeness: NDArray[np.float64]
    utility: NDArray[np.float64]
    priority: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Selection:
    """A selector's answer.

    Attributes:
        kept: `[keep]` int64, sorted indices into the candidates.
        ranking: the numbers behind it; `None` for selectors that need no scores.
        filtered: how many candidates the boundary filter excluded from the cut.
        refilled: how many it would have excluded but let back in, because fewer than `keep` would have been left.
    """

    kept: NDArray[np.int64]
    ranking: Ranking | None = None
    filtered: int = 0
    refilled: int = 0


@runtime_checkable
class Selector(Protocol):
    """Chooses `keep` of `count` candidates."""

    @property
    def name(self) -> str:
        """Registry name."""

    @property
    def needs_scores(self) -> bool:
        """Whether `select` reads `scores`; when not, the trainer skips the scoring pass."""

    @property
    def needs_reference(self) -> bool:
        """Whether `scores` must hold reference log-probabilities."""

    @property
    def needs_informativeness(self) -> bool:
        """Whether `scores` must hold informativeness."""

    def select(
        self,
        scores: CandidateScores | None,
        *,
        count: int,
        keep: int,
        strata: NDArray[np.int8] | None,
        rng: np.random.Generator,
    ) -> Selection:
        """Return which `keep` of the `count` candidates to train on.

        Args:
            scores: columns over the candidates; `None` allowed unless `needs_scores`.
            count: number of candidates N, >= 1.
            keep: how many to keep, 1 <= keep <= count.
            strata: `[N]` stratum codes (`core.strata`), or `None` when strata are off.
            rng: the only source of randomness; equal generators give equal selections.

        Raises:
            ValueError: sizes disagree, or a column this selector needs is absent.
            NumericalError: a score is NaN or infinite.
        """


def check_request(scores: CandidateScores | None, *, count: int, keep: int, strata: NDArray[np.int8] | None) -> None:
    """Raise `ValueError` unless sizes agree: 1 <= keep <= count, scores and strata have `count` rows."""
    if not 1 <= keep <= count:
        raise ValueError(f"keep is {keep} of {count} candidates, expected 1 <= keep <= count; check the keep fraction")
    if scores is not None and len(scores) != count:
        raise ValueError(f"scores have {len(scores)} rows for {count} candidates; score every candidate exactly once")
    if strata is not None and strata.shape != (count,):
        raise ValueError(f"strata have shape {strata.shape} for {count} candidates, expected ({count},)")
