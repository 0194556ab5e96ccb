"""Reference log-probabilities that the training data brings along, as TRL stores them: used once they are checked."""

from __future__ import annotations

import numpy as np
from accelerate.logging import get_logger
from datasets import Dataset

from sage_dpo.errors import ConfigError, DataError
from sage_dpo.forward import as_completions
from sage_dpo.selection.dataset import TOKEN_COLUMNS
from sage_dpo.selection.models import Models
from sage_dpo.selection.scoring import PairScorer

logger = get_logger(__name__)

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
_CHECKED = 8  # pairs
_TOLERANCE = (0.05, 0.5)  # relative, and nats: what other kernels and precisions differ by


def use_stored_reference(pairs: Dataset, scorer: PairScorer, models: Models, *, ld_alpha: float | None) -> None:
    """Take the columns' values for the reference's, if the first pairs' are what this run's reference gives.

    Args:
        pairs: tokenized; without the two columns nothing is done.
        scorer: of the run, before its first step.
        models: of the run. Where no reference is at hand the values are taken as they are.
        ld_alpha: of the loss.

    Raises:
        DataError: values of another reference, or none that are numbers.
        ConfigError: values stored for another loss.
    """
    if not set(COLUMNS) <= set(pairs.column_names):
        return
    names = " and ".join(COLUMNS)
    if ld_alpha is not None:
        raise ConfigError(
            f"train_dataset has {names}, which with ld_alpha depend on the pair and cannot be checked; leave them "
            "out, they are computed again"
        )
    stored = np.concatenate([np.array(pairs[name][:], dtype=np.float64) for name in COLUMNS])
    if not np.isfinite(stored).all():
        raise DataError(
            f"train_dataset: {names} have gaps, expected a number in each row; fill them, or leave the columns out"
        )
    if models.keeps_reference or scorer.policy_is_reference:
        count = min(_CHECKED, len(pairs))
        found = scorer.reference_logps(as_completions(pairs.select(range(count)).select_columns([*TOKEN_COLUMNS])[:]))
        given = np.concatenate([half[:count] for half in np.split(stored, 2)])
        if (abs(given - found) > _TOLERANCE[0] * abs(found) + _TOLERANCE[1]).any():
            worst = int(abs(given - found).argmax())
            raise DataError(
                f"train_dataset: {COLUMNS[worst // count]} is {given[worst]:.4g} in row {worst % count}, but the "
                f"reference of this run gives {found[worst]:.4g}; leave {names} out, they are computed again"
            )
    else:
        logger.warning(f"{names} of the training data are used unchecked, as no reference is at hand")
    scorer.reference.add(as_completions(pairs.select_columns([*TOKEN_COLUMNS])[:]), stored)
