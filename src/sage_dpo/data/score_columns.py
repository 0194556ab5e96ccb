"""The columns that `sage-dpo select` adds to a user's rows, beside columns of the user's own."""

from __future__ import annotations

from collections.abc import Mapping

from sage_dpo.rules import EXCLUSIONS

PREFIX = "sage_"

KEPT, SHUT, BELOW = "kept", "shut by the gate", "below the cut"
REASONS = (KEPT, SHUT, BELOW, *EXCLUSIONS)
"""What `sage_reason` says of a row."""

NUMBERS = ("margin", "gradient_signal", "curvature", "informativeness", "utility")
"""As in `records.PairScore`; empty where nothing was scored."""

SCORES: Mapping[str, type] = {
    "pair_id": str,
    "stratum": str,
    **dict.fromkeys(NUMBERS, float),
    "rank": int,
}
"""Of every row that is written: its id, and its numbers; `rank` counts from 1 among what the cut compares."""

DECISIONS: Mapping[str, type] = {"is_open": bool, "is_kept": bool, "reason": str}
"""Of every row where dropped ones are written, too."""
