"""Scoring stored pairs under a policy: what `sage-dpo score` does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sage_dpo.config import PolicySettings, SelectorSettings
from sage_dpo.core.selection import kept_count
from sage_dpo.errors import ConfigError
from sage_dpo.forward import as_completions, score_completions
from sage_dpo.pipeline.policies import load_model
from sage_dpo.records import PairScore, PreferencePair
from sage_dpo.selectors.base import CandidateScores
from sage_dpo.selectors.registry import make_selector
from sage_dpo.storage import read_records


def score_pairs(
    model: str, pairs_path: Path, settings: SelectorSettings, *, token_budget: int, progress: bool
) -> list[PairScore]:
    """Score all pairs as one candidate batch and mark those the selector keeps.

    Raises:
        ConfigError: a margin that needs a reference, of which there is none here.
    """
    selector = make_selector(settings)
    if selector.needs_reference:
        raise ConfigError(f"margin {settings.margin!r} compares with a reference policy; score with margin=confidence")
    pairs = read_records(pairs_path, PreferencePair)
    columns = {name: [getattr(p, name) for p in pairs] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    policy = load_model(PolicySettings(path=model))
    scores = score_completions(
        policy,
        as_completions(columns),
        token_budget=token_budget,
        device=policy.device,
        progress="scoring" if progress else None,
    )
    candidates = CandidateScores.of_completions(scores.logps, scores.lengths, scores.informativeness)
    count = len(candidates)
    keep = kept_count(count, settings.keep_ratio)
    selection = selector.select(candidates, count=count, keep=keep, strata=None, rng=np.random.default_rng(0))
    if selection.ranking is None:
        raise ConfigError(f"selector {settings.selector!r} computes no scores; use sage or lowest_margin")
    ranking, kept = selection.ranking, set(selection.kept.tolist())
    return [
        PairScore(
            step=0,
            pair_id=pair.id,
            problem_id=pair.problem_id,
            stratum="",
            margin=float(ranking.margin[row]),
            gradient_signal=float(ranking.gradient_signal[row]),
            curvature=float(ranking.curvature[row]),
            informativeness=float(ranking.informativeness[row]),
            utility=float(ranking.utility[row]),
            is_kept=row in kept,
            pool_version=pair.policy_version,
        )
        for row, pair in enumerate(pairs)
    ]
