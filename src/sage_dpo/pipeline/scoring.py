"""Scoring stored pairs under a policy: what `sage-dpo score` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from sage_dpo.config import PolicySettings, SelectorSettings
from sage_dpo.core.selection import kept_count
from sage_dpo.errors import ConfigError
from sage_dpo.pairs import load_preference_data, tokenize_preferences
from sage_dpo.pipeline.policies import load_model, load_tokenizer
from sage_dpo.records import PairScore
from sage_dpo.selection.log import candidate_records
from sage_dpo.selection.models import LoadedModels
from sage_dpo.selection.pool import Draw
from sage_dpo.selection.scoring import PairScorer
from sage_dpo.selectors import Candidates, make_selector


def score_pairs(
    policy: PolicySettings,
    pairs_path: str | Path,
    settings: SelectorSettings,
    *,
    token_budget: int,
    progress: bool,
    fields: Mapping[str, str | None] | None = None,
) -> list[PairScore]:
    """Score all pairs as one candidate batch and mark those the selector keeps.

    Args:
        policy: the model.
        pairs_path: pairs of `sage-dpo pairs`, or preference data that `load_preference_data` reads.
        settings: which selector, and how it cuts.
        token_budget: tokens of a forward-only batch.
        progress: show progress bars.
        fields: which columns of preference data hold what.

    Raises:
        ConfigError: a selector that scores nothing, or a margin that needs a reference, of which there is none here.
        DataError: no pairs there, or none that can be read.
        EmptyPoolError: every row is excluded.
    """
    selector = make_selector(settings)
    if not selector.needs_scores:
        raise ConfigError(f"selector {settings.selector!r} computes no scores; use sage or lowest_margin")
    if selector.needs_reference:
        raise ConfigError(f"margin {settings.margin!r} compares with a reference policy; score with margin=confidence")
    pairs = tokenize_preferences(load_preference_data(pairs_path, fields=fields), load_tokenizer(policy)).pairs
    names = ("id", "problem_id", "prompt_ids", "chosen_ids", "rejected_ids")
    columns = {name: [getattr(pair, name) for pair in pairs] for name in names}
    models = LoadedModels(load_model(policy), token_budget=token_budget, progress=progress)
    scores, _ = PairScorer(models).score(columns, with_informativeness=selector.needs_informativeness, label="scoring")
    candidates = Candidates(len(pairs), np.random.default_rng(0), scores)
    selection = selector.select(candidates, kept_count(len(pairs), settings.keep_ratio))
    records = candidate_records(columns, Draw(np.arange(len(pairs)), None), selection, step=0, pool_version=0)
    return [replace(record, pool_version=pair.policy_version) for record, pair in zip(records, pairs, strict=True)]
