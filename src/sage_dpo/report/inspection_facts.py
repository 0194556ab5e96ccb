"""What `sage-dpo inspect` tells: of a source as a whole, and of one pair. Plain values, ready for JSON."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.data.score_columns import BELOW, KEPT, NUMBERS, SHUT
from sage_dpo.errors import DataError
from sage_dpo.report.inspection import Decisions


def summarize(decisions: Decisions, *, top: int) -> dict[str, Any]:
    """Return counts, the pairs most often kept, and those of highest and lowest utility.

    Args:
        decisions: of one source.
        top: how many pairs of each list.
    """
    counts = Counter(decisions.reason.tolist())
    pairs, first, number, seen = np.unique(
        decisions.pair_id.astype(str), return_index=True, return_inverse=True, return_counts=True
    )
    times_kept = np.bincount(number, weights=decisions.reason == KEPT, minlength=len(pairs)).astype(int)
    result: dict[str, Any] = {"name": decisions.name, "rows": len(decisions), "pairs": len(pairs)}
    if not decisions.has_scores:
        return result
    result |= {
        "kept": counts[KEPT],
        "shut": counts[SHUT],
        "below": counts[BELOW],
        "excluded": {why: count for why, count in sorted(counts.items()) if why not in (KEPT, SHUT, BELOW)},
        "never_kept": int((times_kept == 0).sum()),
        "strata": _by_stratum(decisions),
    }
    if decisions.step is not None:
        result["steps"] = [int(decisions.step.min()), int(decisions.step.max())]
        often = np.lexsort((first, seen, -times_kept))[:top]
        result["most_kept"] = [
            {"pair_id": pairs[index], "kept": int(times_kept[index]), "candidate": int(seen[index])}
            for index in often.tolist()
            if times_kept[index]
        ]
    last = np.zeros(len(pairs), dtype=np.int64)
    last[number] = np.arange(len(number))  # the last one assigned is the last appearance
    utility = decisions.numbers["utility"][last]
    order = last[np.lexsort((last, -utility))][: np.isfinite(utility).sum()]
    result["top"] = [_appearance(decisions, row) for row in order[:top].tolist()]
    result["bottom"] = [_appearance(decisions, row) for row in order[max(top, len(order) - top) :][::-1].tolist()]
    return result


def explain(sources: Sequence[Decisions], pair_id: str) -> list[dict[str, Any]]:
    """Return, of each source that knows the pair, when it was a candidate, what became of it and why, beside which.

    Raises:
        DataError: no source knows it; names one that is near.
    """
    found = [_explain(decisions, decisions.own_ids.get(pair_id, pair_id)) for decisions in sources]
    known = [facts for facts in found if facts is not None]
    if not known:
        ids = [name for decisions in sources for name in (*decisions.pair_id[:2000].tolist(), *decisions.own_ids)]
        near = difflib.get_close_matches(pair_id, ids, n=1) or ids[:1]
        raise DataError(f"no pair {pair_id!r} in {', '.join(d.name for d in sources)}; one is {near[0]!r}")
    return known


def _explain(decisions: Decisions, pair_id: str) -> dict[str, Any] | None:
    rows = np.flatnonzero(decisions.pair_id == pair_id).tolist()
    if not rows:
        return None
    version = 0 if decisions.pool_version is None else int(decisions.pool_version[rows[0]])
    texts = decisions.texts(pair_id, version)
    return {
        "name": decisions.name,
        "pair_id": pair_id,
        "texts": None if texts is None else dict(texts),
        "candidate": len(rows) if decisions.has_scores else 0,
        "kept": int((decisions.reason[rows] == KEPT).sum()),
        "appearances": [_with_company(decisions, row) for row in rows] if decisions.has_scores else [],
    }


def _with_company(decisions: Decisions, row: int) -> dict[str, Any]:
    """Return an appearance with the candidates it was compared with, best first, and why it was kept or not."""
    others = np.flatnonzero(decisions.group == decisions.group[row])
    ranked = others[decisions.rank[others] > 0]
    ranked = ranked[np.argsort(decisions.rank[ranked], kind="stable")]
    return {
        **_appearance(decisions, row),
        "open": len(ranked),
        "kept_of_open": int((decisions.reason[others] == KEPT).sum()),
        "why": _why(decisions, row, others),
        "beside": [_neighbour(decisions, other) for other in ranked.tolist() if other != row],
    }


def _why(decisions: Decisions, row: int, others: NDArray[np.int64]) -> str:
    reason, rank = str(decisions.reason[row]), int(decisions.rank[row])
    margin = decisions.numbers["margin"]
    kept = others[decisions.reason[others] == KEPT]
    if reason == SHUT:
        is_open = decisions.rank[others] > 0
        above = f", the largest open one is {margin[others][is_open].max():.4g}" if is_open.any() else ""
        return f"shut by the gate: its margin is {margin[row]:.4g}{above}"
    if not rank:
        return reason
    place = f"rank {rank} of {(decisions.rank[others] > 0).sum()} open"
    if reason == KEPT:
        return f"kept: {place}"
    if len(kept) and rank < decisions.rank[kept].max():
        return f"not trained on: {place}, passed over by the draw, or where pairs were dealt to processes"
    return f"below the cut: {place}, of which {len(kept)} were kept"


def _appearance(decisions: Decisions, row: int) -> dict[str, Any]:
    numbers = {name: _number(decisions.numbers[name][row]) for name in NUMBERS}
    where = {} if decisions.step is None else {"step": int(decisions.step[row])}
    if decisions.pool_version is not None:
        where["pool_version"] = int(decisions.pool_version[row])
    return {
        "pair_id": str(decisions.pair_id[row]),
        **where,
        "stratum": str(decisions.stratum[row]),
        **numbers,
        "rank": int(decisions.rank[row]) or None,
        "reason": str(decisions.reason[row]),
    }


def _neighbour(decisions: Decisions, row: int) -> dict[str, Any]:
    return {
        "pair_id": str(decisions.pair_id[row]),
        "rank": int(decisions.rank[row]),
        "margin": _number(decisions.numbers["margin"][row]),
        "utility": _number(decisions.numbers["utility"][row]),
        "reason": str(decisions.reason[row]),
    }


def _by_stratum(decisions: Decisions) -> dict[str, dict[str, int]]:
    names = [name for name in ("easy", "medium", "hard") if (decisions.stratum == name).any()]
    return {
        name: {
            "rows": int((decisions.stratum == name).sum()),
            "kept": int(((decisions.stratum == name) & (decisions.reason == KEPT)).sum()),
        }
        for name in names
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
