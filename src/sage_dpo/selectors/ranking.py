"""What scored selectors share: columns -> margin and its derivatives, and the cut by priority."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sage_dpo.core.margins import confidence_margin, implicit_margin, normalized_implicit_margin
from sage_dpo.core.selection import admit_by_boundary, perturb, select_top
from sage_dpo.core.utility import pair_informativeness
from sage_dpo.errors import NumericalError
from sage_dpo.selectors.base import CandidateScores, Ranking, Selection, SelectorSettings

DEFAULT_BETA = 0.1  # TRL's; the trainer passes the loss's own


def column(scores: CandidateScores, name: str, *, needed_for: str) -> Tensor:
    """Return one column as float64 on the CPU (a batch has tens to thousands of rows: no transfer worth saving).

    Raises:
        ValueError: the column is absent.
        NumericalError: a value is NaN or infinite.
    """
    values: Tensor | NDArray[Any] | None = getattr(scores, name)
    if values is None:
        raise ValueError(f"candidate scores have no {name}, needed for {needed_for}; let the scorer compute it")
    tensor = torch.as_tensor(values).detach().to(device="cpu", dtype=torch.float64)
    bad = torch.nonzero(~torch.isfinite(tensor)).flatten().tolist()
    if bad:
        raise NumericalError(
            f"{len(bad)} of {tensor.numel()} values of {name} are NaN or infinite, at rows {bad[:8]}; "
            "lower the learning rate, or check these pairs' tokens"
        )
    return tensor


def compute_margin(scores: CandidateScores, settings: SelectorSettings) -> Tensor:
    """Return the `[N]` float64 margin that `settings.margin` names. Errors as for `column`."""
    purpose = f"the {settings.margin} margin"
    policy = [column(scores, name, needed_for=purpose) for name in ("chosen_logps", "rejected_logps")]
    lengths = [column(scores, name, needed_for=purpose) for name in ("chosen_lengths", "rejected_lengths")]
    if settings.margin == "confidence":
        return confidence_margin(
            policy[0],
            policy[1],
            lengths[0],
            lengths[1],
            temperature=settings.margin_temperature,
            length_normalized=settings.length_normalized,
        )
    reference = [column(scores, name, needed_for=purpose) for name in ("ref_chosen_logps", "ref_rejected_logps")]
    if settings.margin == "implicit":
        return implicit_margin(
            policy[0], policy[1], reference[0], reference[1], beta=settings.implicit_beta or DEFAULT_BETA
        )
    return normalized_implicit_margin(
        policy[0],
        policy[1],
        reference[0],
        reference[1],
        lengths[0],
        lengths[1],
        temperature=settings.margin_temperature,
    )


def compute_informativeness(scores: CandidateScores, settings: SelectorSettings) -> Tensor:
    """Return the `[N]` float64 informativeness J. Errors as for `column`."""
    names = ("chosen_informativeness", "rejected_informativeness", "chosen_lengths", "rejected_lengths")
    columns = [column(scores, name, needed_for="informativeness") for name in names]
    return pair_informativeness(*columns, length_normalized=settings.length_normalized)


def cut(
    ranking: Ranking,
    keep: int,
    *,
    strata: NDArray[np.int8] | None,
    settings: SelectorSettings,
    rng: np.random.Generator,
) -> Selection:
    """Apply the boundary filter, then keep the candidates of highest priority, within strata or globally.

    Equal priorities go to the lower margin, then to the lower index. With `settings.cut_temperature` the kept are drawn
    in proportion to exp(priority / temperature); with `settings.random_share` that part of the places is filled at
    random from the rest.
    """
    admitted, refilled = admit_by_boundary(ranking.margin, settings.boundary_width, keep)
    rows = np.flatnonzero(admitted)
    codes = None if strata is None or settings.cut == "global" else strata[rows]
    at_random = int(settings.random_share * keep + 1e-9)  # 0.29 * 100 is 28.999999999999996
    priority = ranking.priority[rows]
    if settings.cut_temperature:
        priority = perturb(priority, settings.cut_temperature, rng)
    best = select_top(priority, keep - at_random, strata=codes, tie_break=ranking.margin[rows])
    if at_random:
        rest = np.setdiff1d(np.arange(rows.size), best)
        drawn = select_top(rng.random(rest.size), at_random, strata=None if codes is None else codes[rest])
        best = np.sort(np.concatenate([best, rest[drawn]]))
    kept = rows[best]
    return Selection(kept=kept, ranking=ranking, filtered=int((~admitted).sum()), refilled=refilled)
