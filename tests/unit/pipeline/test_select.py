"""Selecting from a data set: the same rows out, whatever they look like; continued, refused, bounded in memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer

from sage_dpo.config import PolicySettings, SelectorSettings, TrainingSettings
from sage_dpo.data.score_columns import DECISIONS, SCORES
from sage_dpo.errors import ConfigError, DataError, EmptyPoolError, RunFolderError
from sage_dpo.pairs import load_preference_data, tokenize_preferences
from sage_dpo.pipeline import score_file, select
from sage_dpo.pipeline.select import SelectRequest, select_pairs
from sage_dpo.records import PreferencePair
from sage_dpo.storage import read_jsonl, write_jsonl, write_records

ADDED = [f"sage_{name}" for name in SCORES]
DECIDED = [f"sage_{name}" for name in DECISIONS]
TEXTS = [{"prompt": f"{n} + 2 ", "chosen": f"{n + 2}", "rejected": f"{n + 3} . w{n}"} for n in range(12)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicySettings:
    folder = tmp_path_factory.mktemp("policy")
    make_tiny_model().save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return PolicySettings(path=str(folder))


def request(policy: PolicySettings, folder: Path, rows: list[dict[str, Any]], **other: Any) -> SelectRequest:
    write_jsonl(folder / "data.jsonl", rows)
    return SelectRequest(policy, str(folder / "data.jsonl"), folder / "out.jsonl", **other)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def said(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


SCHEMAS: Mapping[str, tuple[Any, dict[str, str]]] = {
    # TRL: dataset formats, "preference", standard and conversational, with the prompt and without
    "trl-text": (lambda q, good, bad: {"prompt": q, "chosen": good, "rejected": bad}, {}),
    "trl-messages": (
        lambda q, good, bad: {"prompt": [user(q)], "chosen": [assistant(good)], "rejected": [assistant(bad)]},
        {},
    ),
    "trl-implicit": (
        lambda q, good, bad: {"chosen": [user(q), assistant(good)], "rejected": [user(q), assistant(bad)]},
        {},
    ),
    # LLaMA-Factory: data/README.md, preference data sets in alpaca and sharegpt format
    "llama-factory-alpaca": (
        lambda q, good, bad: {"instruction": "w1 w2 .", "input": q, "chosen": good, "rejected": bad},
        {"prompt": "instruction"},
    ),
    "llama-factory-sharegpt": (
        lambda q, good, bad: {
            "conversations": [said("human", "w1"), said("gpt", "w2"), said("human", q)],
            "chosen": said("gpt", good),
            "rejected": said("gpt", bad),
        },
        {"prompt": "conversations"},
    ),
    # Axolotl: docs/rlhf.qmd, DPO
    "axolotl-chat-template-default": (
        lambda q, good, bad: {
            "messages": [{"role": "system", "content": "w3"}, user(q)],
            "chosen": assistant(good),
            "rejected": assistant(bad),
        },
        {"prompt": "messages"},
    ),
    "axolotl-chatml-intel": (
        lambda q, good, bad: {"system": "w3", "question": q, "chosen": good, "rejected": bad},
        {"prompt": "question"},
    ),
    "axolotl-chatml-argilla": (
        lambda q, good, bad: {"instruction": q, "chosen_response": good, "rejected_response": bad},
        {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
    ),
    # ms-swift: custom data sets, RLHF
    "ms-swift": (
        lambda q, good, bad: {"messages": [user(q), assistant(good)], "rejected_response": bad},
        {},
    ),
    "ms-swift-messages": (
        lambda q, good, bad: {
            "messages": [user(q), assistant(good)],
            "rejected_messages": [user(q), assistant(bad)],
        },
        {},
    ),
    # OpenRLHF: --prompt_key, --chosen_key, --rejected_key, with and without --apply_chat_template
    "openrlhf-prompt": (
        lambda q, good, bad: {"prompt": [user(q)], "chosen": [assistant(good)], "rejected": [assistant(bad)]},
        {},
    ),
    "openrlhf-full": (
        lambda q, good, bad: {
            "prompt": q,
            "chosen": [user(q), assistant(good)],
            "rejected": [user(q), assistant(bad)],
        },
        {},
    ),
}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_every_trainers_rows_come_back_as_they_were(
    name: str, kind: str, policy: PolicySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    make, fields = SCHEMAS[name]
    rows = [
        {
            **make(f"{n} + 2 = ", f"{n + 2}", f"{n + 3} ."),
            "source": f"w{n}",
            "meta": {"tags": ["a", "b"][: n % 3], "n": n},
        }
        for n in range(6)
    ]
    data = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        write_jsonl(data, rows)
    else:
        Dataset.from_list(rows).to_parquet(data)
    loaded = pq.read_table(data) if kind == "parquet" else None
    asked = SelectRequest(policy, str(data), tmp_path / f"out.{kind}", fields=fields, with_scores=False)
    result = select_pairs(asked, progress=False)
    assert (result["rows"], result["usable"], result["excluded"]) == (6, 6, {})
    assert 1 <= result["kept"] <= 3
    if loaded is None:
        written = read_jsonl(asked.output)
        assert [list(row) for row in written] == [list(rows[0])] * result["kept"]
        assert written == [row for row in rows if row in written]
    else:
        table = pq.read_table(asked.output)
        assert table.schema.equals(loaded.schema, check_metadata=True)
        assert table.to_pylist() == [row for row in loaded.to_pylist() if row in table.to_pylist()]
    again = load_dataset("json" if kind == "jsonl" else "parquet", data_files=str(asked.output), split="train")
    assert again.column_names == list(rows[0])
    # and what was scored is what the words say
    pairs = tokenize_preferences(load_preference_data(asked.output, fields=fields), make_tiny_tokenizer()).pairs
    assert {pair.chosen.split()[0] for pair in pairs} <= {str(n + 2) for n in range(6)}


def test_annotated_rows_say_why_and_filtered_ones_are_among_them(policy: PolicySettings, tmp_path: Path) -> None:
    rows = [
        *TEXTS,
        {"prompt": "1", "chosen": "2", "rejected": "2"},
        {"prompt": "1 " * 30, "chosen": "2", "rejected": "3"},
    ]
    asked = request(policy, tmp_path, rows, training=TrainingSettings(max_length=20), annotate=True)
    result = select_pairs(asked, progress=False)
    every = read_jsonl(asked.output)
    assert [{name: row[name] for name in rows[0]} for row in every] == rows
    assert [list(row) for row in every] == [[*rows[0], *ADDED, *DECIDED]] * len(rows)
    assert result["excluded"] == {"chosen equals rejected": 1, "longer than max_length": 1}
    reasons = [row["sage_reason"] for row in every]
    assert reasons[-2:] == ["chosen equals rejected", "longer than max_length"]
    counted = {"kept": result["kept"], "below the cut": result["below"], "shut by the gate": result["shut"]}
    assert {reason: reasons.count(reason) for reason in counted} == counted
    assert sum(counted.values()) == result["usable"] == 12
    for row in every:
        assert row["sage_is_kept"] == (row["sage_reason"] == "kept")
        assert (row["sage_margin"] is None) == (row["sage_reason"] in result["excluded"])
        assert (row["sage_rank"] is None) == (not row["sage_is_open"])
        if row["sage_margin"] is not None:
            assert row["sage_is_open"] == (row["sage_margin"] <= result["gate"])
    margins = np.array([row["sage_margin"] for row in every[:12]])
    assert result["gate"] == pytest.approx(np.quantile(np.abs(margins), 0.5))
    select_pairs(replace(asked, annotate=False), progress=False)
    assert read_jsonl(asked.output) == [
        {name: value for name, value in row.items() if name not in DECIDED} for row in every if row["sage_is_kept"]
    ]


def test_pairs_of_token_ids_keep_their_ids_and_types(policy: PolicySettings, tmp_path: Path) -> None:
    pairs = [PreferencePair(f"q{n}/v0", f"p{n}", (6, 7), (8 + n, 4), (20, 9, 4), success_rate=n / 4) for n in range(4)]
    write_records(tmp_path / "pairs.parquet", pairs, PreferencePair)
    asked = SelectRequest(policy, str(tmp_path / "pairs.parquet"), tmp_path / "out.parquet", annotate=True)
    result = select_pairs(asked, progress=False)
    table, before = pq.read_table(asked.output), pq.read_table(tmp_path / "pairs.parquet")
    assert table.select(before.column_names).equals(before)
    assert table.column("sage_pair_id").to_pylist() == ["q0/v0", "q1/v0", "q2/v0", "q3/v0"]
    assert table.column("sage_stratum").to_pylist() == ["hard", "hard", "medium", "easy"]  # by their success rates
    assert result["strata"].keys() == {"easy", "medium", "hard"}


def test_json_becomes_parquet_and_back(policy: PolicySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_dpo.pairs.preference_stream.BLOCK_ROWS", 2)
    rows = [dict(row) for row in TEXTS[:6]]
    rows[1]["note"], rows[3]["note"], rows[4]["meta"] = None, "w1", {"a": [1.5]}
    rows[5]["meta"] = {"a": [2], "b": "x"}
    asked = request(policy, tmp_path, rows, annotate=True)
    asked = replace(asked, output=tmp_path / "out.parquet")
    select_pairs(asked, progress=False)
    table = pq.read_table(asked.output)
    assert table.column_names == [*TEXTS[0], "note", "meta", *ADDED, *DECIDED]
    assert table.column("note").to_pylist() == [None, None, None, "w1", None, None]
    assert table.column("meta").to_pylist()[4:] == [{"a": [1.5], "b": None}, {"a": [2.0], "b": "x"}]
    plain = table.select(list(TEXTS[0]))
    pq.write_table(plain, tmp_path / "plain.parquet")
    back = replace(asked, data=str(tmp_path / "plain.parquet"), output=tmp_path / "back.jsonl")
    select_pairs(back, progress=False)
    assert [{name: row[name] for name in TEXTS[0]} for row in read_jsonl(back.output)] == TEXTS[:6]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"selection": SelectorSettings(margin="implicit")}, ConfigError, "there is none; select with margin=confiden"),
        ({"selection": SelectorSettings(selector="mine")}, ConfigError, "selector is 'mine', expected one of"),
        ({"annotate": True, "with_scores": False}, ConfigError, "--no-scores leaves them out; give one of the two"),
        ({"data": "nowhere.jsonl"}, DataError, "nowhere.jsonl: no such file or folder"),
        ({"fields": {"prompt": "question"}}, DataError, "line 1: no 'question' for 'prompt'"),
    ],
)
def test_what_cannot_be_selected_is_refused_before_a_model_is_loaded(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    policy: PolicySettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(select, "load_model", lambda policy: pytest.fail("loaded"))
    with pytest.raises(error, match=message):
        select_pairs(replace(request(policy, tmp_path, TEXTS), **change), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_the_data_itself_is_not_written_to(policy: PolicySettings, tmp_path: Path) -> None:
    asked = request(policy, tmp_path, TEXTS)
    for data, output in ((asked.data, tmp_path / "data.jsonl"), (str(tmp_path), tmp_path / "out.jsonl")):
        with pytest.raises(ConfigError, match="lies in the data"):
            select_pairs(replace(asked, data=data, output=output), progress=False)
    select_pairs(asked, progress=False)
    with pytest.raises(ConfigError, match=r"has the columns sage_curvature, .* already"):
        select_pairs(replace(asked, data=str(asked.output), output=tmp_path / "b.jsonl"), progress=False)


def test_a_gate_that_shuts_everything_is_an_error_and_the_scores_serve_again(
    policy: PolicySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(policy, tmp_path, TEXTS, selection=SelectorSettings(gate=-1e9))
    with pytest.raises(EmptyPoolError, match="the gate shuts all 12 pairs, whose margins are above -1e"):
        select_pairs(asked, progress=False)
    monkeypatch.setattr(select.PairScorer, "score", lambda *_, **__: pytest.fail("scored again"))
    wide = replace(asked, selection=SelectorSettings(gate=1e9, keep_ratio=0.25))
    assert select_pairs(wide, progress=False)["kept"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "out.jsonl"]


def test_data_without_a_usable_row_can_be_mended(policy: PolicySettings, tmp_path: Path) -> None:
    with pytest.raises(EmptyPoolError, match="no usable pair"):
        select_pairs(request(policy, tmp_path, [{**row, "rejected": " "} for row in TEXTS]), progress=False)
    assert select_pairs(request(policy, tmp_path, TEXTS), progress=False)["usable"] == len(TEXTS)


@pytest.mark.parametrize("selector", ["random", "all"])
def test_controls_need_no_model(selector: str, policy: PolicySettings, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(select, "load_model", lambda policy: pytest.fail("loaded"))
    settings = SelectorSettings(selector=selector, keep_ratio=1.0 if selector == "all" else 0.25)
    asked = request(policy, tmp_path, TEXTS, selection=settings, seed=3)
    assert select_pairs(asked, progress=False)["kept"] == (12 if selector == "all" else 3)
    first = read_jsonl(asked.output)
    assert {row["sage_margin"] for row in first} == {None}
    select_pairs(replace(asked, seed=4), progress=False)
    assert (read_jsonl(asked.output) == first) == (selector == "all")


class Killed(BaseException):
    """Stands for a process that is gone: nothing after it is run."""


@pytest.mark.parametrize("written", [0, 17, None], ids=["before", "within", "after"])
@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
def test_an_interrupted_selection_continues_to_the_same_bytes(
    written: int | None, output: str, policy: PolicySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_dpo.pairs.preference_stream.BLOCK_ROWS", 3)
    whole = replace(request(policy, tmp_path, TEXTS), output=tmp_path / f"whole-{output}")
    select_pairs(whole, progress=False)
    asked = replace(whole, output=tmp_path / output)
    append, blocks = score_file.ScoreFile.append, 0

    def killed_in_the_third_block(self: Any, records: Any) -> None:
        nonlocal blocks
        blocks += 1
        if blocks == 3:
            with self._path.open("ab") as file:
                file.write(records.tobytes()[:written])
            raise Killed
        append(self, records)

    with monkeypatch.context() as patch:
        patch.setattr(score_file.ScoreFile, "append", killed_in_the_third_block)
        with pytest.raises(Killed):
            select_pairs(asked, progress=False)
    assert not asked.output.exists()
    scored = []
    score = select.PairScorer.score
    monkeypatch.setattr(
        select.PairScorer,
        "score",
        lambda self, pairs, **how: (scored.append(pairs["id"]), score(self, pairs, **how))[1],
    )
    select_pairs(asked, progress=False)
    left = [["row-6", "row-7", "row-8"], ["row-9", "row-10", "row-11"]]
    assert scored == (left[1:] if written is None else left)
    assert asked.output.read_bytes() == whole.output.read_bytes()
    assert not asked.parts.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": TrainingSettings(max_length=12)}, "max_length was 4096, is 12; give the old values"),
        ({"fields": {"id": ""}}, r"fields was '\{\}', is"),
        ({"selection": SelectorSettings(use_informativeness=False)}, "informativeness was True, is False"),
        ({"data": "other.jsonl"}, "data was '"),
        ({"policy": PolicySettings(path="other")}, "model was '.*; weights was '"),
    ],
)
def test_other_scores_are_not_continued(
    change: dict[str, Any], message: str, policy: PolicySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(policy, tmp_path, TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(select, "write_selected", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            select_pairs(asked, progress=False)
    monkeypatch.chdir(tmp_path)
    write_jsonl("other.jsonl", TEXTS[:5])
    make_tiny_model(seed=1).save_pretrained("other")
    make_tiny_tokenizer().save_pretrained("other")
    with pytest.raises(RunFolderError, match=message):
        select_pairs(replace(asked, **change), progress=False)
    result = select_pairs(replace(asked, fresh=True, **change), progress=False)
    assert result["rows"] == (5 if "data" in change else 12)


def test_memory_does_not_grow_with_the_file(
    policy: PolicySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peak of what Python allocates, for 30 MB of rows in blocks of 0.8 MB."""
    monkeypatch.setattr("sage_dpo.pairs.preference_stream.BLOCK_ROWS", 16)
    with (tmp_path / "data.jsonl").open("w") as file:
        for n in range(600):
            row = {"prompt": f"{n % 20} + 1", "chosen": "2", "rejected": "3", "note": f"{n} " + "x" * 50_000}
            file.write(json.dumps(row) + "\n")
    size = (tmp_path / "data.jsonl").stat().st_size
    random = SelectorSettings(selector="random", keep_ratio=0.9)
    asked = SelectRequest(policy, str(tmp_path / "data.jsonl"), tmp_path / "out.jsonl", random)
    tracemalloc.start()
    try:
        assert select_pairs(asked, progress=False)["kept"] == 540
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 30e6
    assert peak < 8e6
    assert asked.output.stat().st_size > 0.85 * size


def test_columns_that_parquet_cannot_hold_and_json_cannot_either(policy: PolicySettings, tmp_path: Path) -> None:
    rows = [{**TEXTS[0], "x": 1}, {**TEXTS[1], "x": "one"}]
    asked = replace(request(policy, tmp_path, rows), output=tmp_path / "out.parquet")
    with pytest.raises(
        DataError, match=r"values that Parquet cannot hold \(column 'x', from .*line 1 on: .*--output .js"
    ):
        select_pairs(asked, progress=False)
    table = pa.table({name: [row[name] for row in TEXTS[:2]] for name in TEXTS[0]} | {"raw": [b"a", b"b"]})
    pq.write_table(table, tmp_path / "raw.parquet")
    raw = replace(asked, data=str(tmp_path / "raw.parquet"), output=tmp_path / "out.jsonl")
    with pytest.raises(DataError, match=r"raw.parquet, row \d: Object of type bytes .* so write --output .parquet"):
        select_pairs(raw, progress=False)
    assert not raw.output.exists()
