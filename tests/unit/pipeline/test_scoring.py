"""Scoring stored pairs: what is refused before any model is loaded, and what comes out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer

from sage_dpo.config import PolicySettings, SelectorSettings
from sage_dpo.errors import ConfigError, DataError
from sage_dpo.pipeline import scoring
from sage_dpo.records import PreferencePair
from sage_dpo.storage import write_jsonl, write_records

PAIRS = [
    PreferencePair(f"q{n}", f"p{n}", (6, 7), (8 + n, 4), (20, 9, 4), success_rate=0.5, policy_version=n % 2)
    for n in range(4)
]


def score(folder: Path, settings: SelectorSettings, pairs: list[PreferencePair] = PAIRS) -> Any:
    write_records(folder / "pairs.parquet", pairs, PreferencePair)
    policy = PolicySettings(path=str(folder / "policy"))
    return scoring.score_pairs(policy, folder / "pairs.parquet", settings, token_budget=64, progress=False)


@pytest.mark.parametrize(
    ("settings", "pairs", "message"),
    [
        (SelectorSettings(selector="random"), PAIRS, "selector 'random' computes no scores; use sage or lowest_margin"),
        (SelectorSettings(margin="implicit"), PAIRS, "compares with a reference policy; score with margin=confidence"),
        (SelectorSettings(), [], "has no rows; give data with one preference pair a row"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_a_model_is_loaded(settings, pairs, message, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "load_model", lambda policy: pytest.fail("loaded"))
    with pytest.raises((ConfigError, DataError), match=message):
        score(tmp_path, settings, pairs)


def test_every_pair_has_its_score_and_the_best_are_kept(tmp_path):
    make_tiny_model().save_pretrained(tmp_path / "policy")
    make_tiny_tokenizer().save_pretrained(tmp_path / "policy")
    records = score(tmp_path, SelectorSettings(keep_ratio=0.5))
    assert [record.pair_id for record in records] == ["q0", "q1", "q2", "q3"]
    assert [record.pool_version for record in records] == [0, 1, 0, 1]  # of the policy that sampled the pair
    kept = sorted((record.utility for record in records if record.is_kept), reverse=True)
    dropped = [record.utility for record in records if not record.is_kept]
    assert len(kept) == 2
    assert kept[-1] >= max(dropped)


def test_preference_data_of_other_people_is_scored_too(tmp_path):
    make_tiny_model().save_pretrained(tmp_path / "policy")
    make_tiny_tokenizer().save_pretrained(tmp_path / "policy")
    rows = [{"question": f"{n} + 2 ", "chosen": "3", "rejected": "4"} for n in range(3)]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    policy, fields = PolicySettings(path=str(tmp_path / "policy")), {"prompt": "question"}
    score = partial(scoring.score_pairs, policy, tmp_path / "mine.jsonl", SelectorSettings(), token_budget=64)
    assert [record.pair_id for record in score(progress=False, fields=fields)] == ["row-0", "row-1", "row-2"]
    with pytest.raises(DataError, match="no column for 'prompt', but question, which would be lost"):
        score(progress=False)
