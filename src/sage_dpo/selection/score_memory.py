"""Scores of earlier optimizer steps, used again while they are young enough.

A completion comes back when its pair is drawn again, or in another pair of its problem. Its score is then a few updates
old: cheaper, and a little wrong. `docs/performance.md` says how much of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sage_dpo.forward import CompletionScores, TokenizedCompletion
from sage_dpo.selection.reference import KEY_BYTES, completion_key


class ScoreMemory:
    """Remembers the scores of completions for some optimizer steps.

    Args:
        max_age: a score is used again up to so many steps after the one it was computed at; 0 remembers nothing.
    """

    def __init__(self, max_age: int) -> None:
        self.max_age = max_age
        self._values: dict[bytes, tuple[int, float, float]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def scores(
        self,
        completions: Sequence[TokenizedCompletion],
        *,
        step: int,
        compute: Callable[[Sequence[TokenizedCompletion]], CompletionScores],
    ) -> tuple[CompletionScores, float]:
        """Return the scores, computing those not remembered, and the share of completions that were.

        Args:
            completions: of this step's candidates.
            step: optimizer steps done, which dates what is computed.
            compute: scores completions with the policy as it is; not called if all are remembered.

        Returns:
            Columns as `score_completions` gives them, with `tokens` of what was computed only.
        """
        if self.max_age == 0:
            return compute(completions), 0.0
        self._values = {key: value for key, value in self._values.items() if step - value[0] <= self.max_age}
        keys = [completion_key(completion) for completion in completions]
        known = sum(key in self._values for key in keys) / max(1, len(keys))
        missing = {key: c for key, c in zip(keys, completions, strict=True) if key not in self._values}
        tokens = 0
        if missing:
            fresh = compute(list(missing.values()))
            unknown = np.full(len(missing), np.nan)
            columns = (fresh.logps, unknown if fresh.informativeness is None else fresh.informativeness)
            rows = zip(missing, *(column.tolist() for column in columns), strict=True)
            self._values |= {key: (step, logp, informativeness) for key, logp, informativeness in rows}
            tokens = fresh.tokens
        logps, informativeness = np.array([self._values[key][1:] for key in keys], dtype=np.float64).reshape(-1, 2).T
        lengths = np.array([len(c.completion_ids) for c in completions], dtype=np.int64)
        is_known = not np.isnan(informativeness).all()
        return CompletionScores(logps.copy(), informativeness.copy() if is_known else None, lengths, tokens), known

    def state_dict(self) -> dict[str, Any]:
        """Return arrays: `keys` `[N, 16]`, and `values` `[N, 3]`: step, log-probability, informativeness or NaN."""
        keys = np.frombuffer(b"".join(self._values), dtype=np.uint8).reshape(-1, KEY_BYTES)
        return {"keys": keys, "values": np.array(list(self._values.values()), dtype=np.float64).reshape(-1, 3)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace what is remembered by what another memory held."""
        self._values = {
            key.tobytes(): (int(step), float(logp), float(informativeness))
            for key, (step, logp, informativeness) in zip(state["keys"], state["values"], strict=True)
        }
