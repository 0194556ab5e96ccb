"""Why a pair was kept or dropped: read from a log, a run and a file, with counts that can be done by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.errors import ConfigError, DataError
from sage_dpo.records import PairScore, PreferencePair
from sage_dpo.report.inspection import read_decisions
from sage_dpo.report.inspection_facts import explain, summarize
from sage_dpo.report.inspection_tables import format_pair, format_summary
from sage_dpo.storage import write_jsonl, write_records


def score(step: int, pair: str, stratum: str, utility: float, *, kept: bool = False, open_: bool = True) -> PairScore:
    """A candidate whose margin is minus its utility."""
    return PairScore(step, pair, "p", stratum, -utility, 0.5, 0.25, 1.0, utility, kept, 0, open_)


LOG = [
    score(0, "a", "easy", 3.0, kept=True),
    score(0, "b", "easy", 1.0),
    score(0, "c", "hard", 2.0, kept=True),
    score(0, "d", "hard", -9.0, open_=False),
    score(1, "a", "easy", 2.5, kept=True),
    score(1, "b", "easy", 4.0),  # left over: above one that is kept
    score(1, "d", "hard", 0.5, kept=True),
]


@pytest.fixture
def trainer_folder(tmp_path: Path) -> Path:
    write_records(tmp_path / "candidates" / "steps-000000-000000.parquet", LOG[:4], PairScore)
    write_records(tmp_path / "candidates" / "steps-000001-000001.parquet", LOG[4:], PairScore)
    return tmp_path


def test_a_log_is_counted(trainer_folder: Path) -> None:
    facts = summarize(read_decisions(trainer_folder)[0], top=2)
    assert {name: facts[name] for name in ("rows", "pairs", "kept", "below", "shut", "never_kept", "steps")} == {
        "rows": 7, "pairs": 4, "kept": 4, "below": 2, "shut": 1, "never_kept": 1, "steps": [0, 1],
    }  # fmt: skip
    assert facts["strata"] == {"easy": {"rows": 4, "kept": 2}, "hard": {"rows": 3, "kept": 2}}
    assert facts["most_kept"] == [
        {"pair_id": "a", "kept": 2, "candidate": 2},
        {"pair_id": "c", "kept": 1, "candidate": 1},
    ]
    assert [row["pair_id"] for row in facts["top"]] == ["b", "a"]  # as they were last seen
    assert [row["pair_id"] for row in facts["bottom"]] == ["d", "c"]
    text = format_summary(facts)
    assert "7 rows, 4 pairs, steps 0 to 1" in text
    assert "kept 4, below the cut 2, shut by the gate 1; 1 pair never kept" in text


@pytest.mark.parametrize(
    ("pair", "why", "beside"),
    [
        ("a", ["kept: rank 1 of 2 open", "kept: rank 2 of 2 open"], [["b"], ["b"]]),
        (
            "b",
            [
                "below the cut: rank 2 of 2 open, of which 1 were kept",
                "not trained on: rank 1 of 2 open, passed over by the draw, or where pairs were dealt to processes",
            ],
            [["a"], ["a"]],
        ),
        ("c", ["kept: rank 1 of 1 open"], [[]]),
        ("d", ["shut by the gate: its margin is 9, the largest open one is -2", "kept: rank 1 of 1 open"], [["c"], []]),
    ],
)
def test_a_pair_is_explained(pair: str, why: list[str], beside: list[list[str]], trainer_folder: Path) -> None:
    (facts,) = explain(read_decisions(trainer_folder), pair)
    assert [row["why"] for row in facts["appearances"]] == why
    assert [[other["pair_id"] for other in row["beside"]] for row in facts["appearances"]] == beside
    assert facts["candidate"] == len(why)
    assert facts["texts"] is None
    text = format_pair(facts)
    times = "once" if facts["kept"] == 1 else f"{facts['kept']} times"
    assert f"kept {times}" in text
    assert all(reason in text for reason in why)


def test_a_run_has_arms_and_texts(build_run: Any) -> None:
    root = build_run()
    names = [decisions.name for decisions in read_decisions(root)]
    assert names == ["lowest_margin", "sage"]  # the others have recorded nothing
    sage = read_decisions(root, "sage")
    pair = summarize(sage[0], top=1)["most_kept"][0]
    (facts,) = explain(sage, pair["pair_id"])
    assert (facts["candidate"], facts["kept"]) == (pair["candidate"], pair["kept"])
    assert facts["texts"]["prompt"].startswith("Tom has")
    assert "prompt: Tom has" in format_pair(facts)
    with pytest.raises(ConfigError, match="has no arm 'nope', expected one of dpo_full"):
        read_decisions(root, "nope")


def test_a_selector_that_ranks_nothing_draws(tmp_path: Path) -> None:
    log = [score(0, name, "", math.nan, kept=name == "a") for name in "abc"]
    write_records(tmp_path / "scores.parquet", log, PairScore)
    decisions = read_decisions(tmp_path / "scores.parquet")
    facts = summarize(decisions[0], top=1)
    assert (facts["kept"], facts["below"], facts["excluded"], facts["top"]) == (1, 0, {"not drawn": 2}, [])
    assert explain(decisions, "b")[0]["appearances"][0]["why"] == "not drawn"
    assert "kept 1, below the cut 0, shut by the gate 0, not drawn 2; 2 pairs never kept" in format_summary(facts)


ROW = {"prompt": [{"role": "user", "content": "1 + 1"}], "chosen": "2", "rejected": "3"}
NUMBERS = {"sage_margin": 1.0, "sage_gradient_signal": 0.3, "sage_curvature": 0.2, "sage_informativeness": 1.0}


def test_a_selected_file_is_explained_by_either_id(tmp_path: Path) -> None:
    rows = [
        {**ROW, "id": f"mine-{n}", "sage_pair_id": f"row-{n}", "sage_stratum": stratum, **NUMBERS,
         "sage_utility": utility, "sage_rank": rank, "sage_is_open": rank is not None, "sage_is_kept": why == "kept",
         "sage_reason": why}
        for n, (stratum, utility, rank, why) in enumerate(
            [("easy", 2.0, 1, "kept"), ("easy", 1.0, 2, "below the cut"), ("hard", 0.5, 1, "kept"),
             ("hard", 0.1, None, "shut by the gate"), (None, None, None, "chosen equals rejected")]
        )
    ]  # fmt: skip
    write_jsonl(tmp_path / "all.jsonl", rows)
    decisions = read_decisions(tmp_path / "all.jsonl")
    facts = summarize(decisions[0], top=9)
    assert (facts["kept"], facts["below"], facts["shut"]) == (2, 1, 1)
    assert facts["excluded"] == {"chosen equals rejected": 1}
    assert [row["pair_id"] for row in facts["top"]] == ["row-0", "row-1", "row-2", "row-3"]
    for name in ("row-1", "mine-1"):
        (told,) = explain(decisions, name)
        assert told["texts"] == {**ROW, "id": "mine-1"}
        assert told["appearances"][0]["why"] == "below the cut: rank 2 of 2 open, of which 1 were kept"
    assert explain(decisions, "row-4")[0]["appearances"][0]["why"] == "chosen equals rejected"
    assert '"content": "1 + 1"' in format_pair(explain(decisions, "row-4")[0])
    with pytest.raises(DataError, match=r"no pair 'row-77' in .*all.jsonl; one is 'row-"):
        explain(decisions, "row-77")


def test_pairs_without_scores_are_shown_as_they_are(tmp_path: Path) -> None:
    pairs = [PreferencePair(f"q{n}", "p", (1,), (2,), (3,), "one", "two", "three") for n in range(2)]
    write_records(tmp_path / "pairs.parquet", pairs, PreferencePair)
    decisions = read_decisions(tmp_path / "pairs.parquet")
    assert "2 rows, 2 pairs, no scores; `sage-dpo select --annotate`" in format_summary(summarize(decisions[0], top=1))
    assert "chosen: two" in format_pair(explain(decisions, "q1")[0])


def test_what_cannot_be_inspected_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("no parquet")
    write_jsonl(tmp_path / "other.jsonl", [{"problem": "1", "answer": "2"}])
    write_jsonl(tmp_path / "text.jsonl", [{"sage_pair_id": "a", "sage_margin": "high"}])
    (tmp_path / "run" / "arms" / "sage").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "out" / "candidates" / "steps-000000-000001.parquet"
    write_records(broken, [score(0, "a", "", math.nan)], PairScore)
    broken.write_bytes(broken.read_bytes()[:-9])
    for name, message in {
        "bad.parquet": "cannot be read as Parquet",
        "other.jsonl": "holds neither scores nor pairs",
        "text.jsonl": "a score is no number",
        "run": "no candidates are recorded yet",
        "empty": "holds no recorded candidates; give the folder of",
        "out": "is not a readable Parquet file",
        "nowhere": "no such file or folder",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            read_decisions(tmp_path / name)
        assert "\n" not in str(caught.value)
