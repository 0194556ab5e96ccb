"""What a SAGE checkpoint holds beyond TRL's: pool, reference log-probabilities, young scores, token counts.

checkpoint-<step>/sage_state.json            pool cursors, counters, settings
checkpoint-<step>/sage_success_rates.npy     if the pool is stratified
checkpoint-<step>/sage_reference.npz         reference log-probabilities
checkpoint-<step>/sage_scores.npz            scores that may still be used again
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.errors import RunFolderError
from sage_dpo.storage import atomic_path, read_json, write_json

_STATE, _RATES = "sage_state.json", "sage_success_rates.npy"


@dataclass
class TokenCounts:
    """Real tokens (prompt and completion, no padding) over all processes since the start of training.

    What the sequences hold: a prompt counts for each of its completions, also where it is run once for all of them.

    Attributes:
        scored: run through the policy forward-only, to choose.
        reference: run through the reference forward-only.
        trained: run forward and backward.
        candidate_pairs, trained_pairs: pairs drawn, pairs trained on.
    """

    scored: int = 0
    reference: int = 0
    trained: int = 0
    candidate_pairs: int = 0
    trained_pairs: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class SageState:
    """The checkpointed state, apart from the reference log-probabilities.

    Attributes:
        settings: of selection and pool; a resumed run must have the same.
        pool: cursors.
        attempted_version: version of the last refresh that was tried; ahead of the pool's own if one made no pairs.
        counts: of tokens and pairs.
        success_rates: of the pool, if it is stratified.
        trl_tokens: TRL's own token counter, which TRL does not save.
    """

    settings: dict[str, Any]
    pool: dict[str, Any]
    attempted_version: int
    counts: dict[str, int]
    success_rates: NDArray[np.float64] | None
    trl_tokens: int


def save_state(folder: str | Path, state: SageState) -> None:
    folder = Path(folder)
    if state.success_rates is not None:
        with atomic_path(folder / _RATES) as temporary, temporary.open("wb") as stream:
            np.save(stream, state.success_rates)
    values = {field.name: getattr(state, field.name) for field in fields(state) if field.name != "success_rates"}
    write_json(folder / _STATE, values)


def load_state(folder: str | Path, *, settings: dict[str, Any]) -> SageState:
    """Read the state that `save_state` wrote.

    Raises:
        RunFolderError: the checkpoint was not written by SAGE, or by a run with other selection settings.
    """
    folder = Path(folder)
    if not (folder / _STATE).is_file():
        raise RunFolderError(
            f"checkpoint {folder} has no {_STATE}, so it was not written by SAGETrainer with a full checkpoint; "
            "resume from one that was (save_only_model must be off), or start anew"
        )
    values = read_json(folder / _STATE)
    if values["settings"] != settings:
        changed = sorted(k for k in settings if values["settings"].get(k) != settings[k])
        raise RunFolderError(
            f"checkpoint {folder} was written with other selection settings (differing: {', '.join(changed)}); "
            "resume with the same SAGEConfig or start anew"
        )
    rates = np.load(folder / _RATES) if (folder / _RATES).is_file() else None
    return SageState(success_rates=rates, **values)


def last_complete_checkpoint(folder: str | Path, *, also: Sequence[str] = ()) -> Path | None:
    """Return the newest checkpoint that was written to its end, or `None`.

    transformers writes `trainer_state.json` last and not atomically, so it must be there and be whole. Callbacks write
    after it: `also` names the files of theirs that must be there.
    """

    def is_complete(path: Path) -> bool:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return all((path / name).is_file() for name in (_STATE, *also))

    checkpoints = [path for path in Path(folder).glob("checkpoint-*") if is_complete(path)]
    return max(checkpoints, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def reference_path(folder: str | Path) -> Path:
    return Path(folder) / "sage_reference.npz"


def scores_path(folder: str | Path) -> Path:
    return Path(folder) / "sage_scores.npz"
