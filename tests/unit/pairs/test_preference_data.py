"""Preference data sets: TRL's formats, TRL's token ids, counted exclusions, errors with row numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer
from trl import DPOConfig, DPOTrainer

from sage_dpo.errors import DataError
from sage_dpo.pairs import load_preference_data, tokenize_preferences


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


STANDARD = [
    {"prompt": "3 + 4 = ", "chosen": "7", "rejected": "8 ."},
    {"prompt": "5 - 2 = ", "chosen": "3 <|end|>", "rejected": "w1 w2"},
]
IMPLICIT = [
    {"chosen": "3 + 4 = 7", "rejected": "3 + 4 = 8 w1"},
    {"chosen": "5 - 2 = 3 . w1", "rejected": "5 - 2 = w2"},
]
CONVERSATIONAL = [
    {"prompt": [user("3 + 4")], "chosen": [assistant("7")], "rejected": [assistant("8 w1")]},
    {
        "prompt": [user("1"), assistant("w1"), user("5 - 2")],
        "chosen": [assistant("3 . w2")],
        "rejected": [assistant("2")],
    },
]
IMPLICIT_CONVERSATIONAL = [
    {"chosen": [*row["prompt"], *row["chosen"]], "rejected": [*row["prompt"], *row["rejected"]]}
    for row in CONVERSATIONAL
]
FORMATS = {
    "standard": STANDARD,
    "implicit": IMPLICIT,
    "conversational": CONVERSATIONAL,
    "implicit conversational": IMPLICIT_CONVERSATIONAL,
}


@pytest.mark.parametrize("name", FORMATS)
def test_token_ids_are_those_of_trl(name: str, tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    dataset = Dataset.from_list(FORMATS[name])
    trainer = DPOTrainer(
        make_tiny_model(),
        ref_model=make_tiny_model(),
        args=DPOConfig(output_dir=str(tmp_path), max_length=None, report_to=[], use_cpu=True, bf16=False),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    pairs = tokenize_preferences(dataset, tokenizer).pairs
    assert len(pairs) == len(trainer.train_dataset) == 2
    for pair, row in zip(pairs, trainer.train_dataset, strict=True):
        assert list(pair.prompt_ids) == row["prompt_ids"]
        assert list(pair.chosen_ids) == row["chosen_ids"]
        assert list(pair.rejected_ids) == row["rejected_ids"]


def test_text_for_people_and_provenance(tiny_tokenizer: Any) -> None:
    rows = [{**row, "success_rate": rate} for row, rate in zip(CONVERSATIONAL, (0.25, None), strict=True)]
    result = tokenize_preferences(Dataset.from_list(rows), tiny_tokenizer)
    pair = result.pairs[0]
    assert (pair.prompt, pair.chosen, pair.rejected) == ("3 + 4", "7", "8 w1")
    assert pair.chosen_ids[-1] == tiny_tokenizer.eos_token_id
    assert [(p.id, p.success_rate, p.chosen_sample) for p in result.pairs] == [("row-0", 0.25, -1), ("row-1", None, -1)]
    assert result.totals == {"rows": 2, "pairs": 2}


def test_rows_of_one_prompt_share_a_problem(tiny_tokenizer: Any) -> None:
    rows = [{"prompt": "1 ", "chosen": "2", "rejected": str(n)} for n in (3, 4)] + [
        {"prompt": "5 ", "chosen": "2", "rejected": "3"}
    ]
    first, second, third = tokenize_preferences(Dataset.from_list(rows), tiny_tokenizer).pairs
    assert first.problem_id == second.problem_id != third.problem_id
    named = Dataset.from_list([{**row, "problem_id": n} for n, row in enumerate(rows)])
    assert [p.problem_id for p in tokenize_preferences(named, tiny_tokenizer).pairs] == ["0", "1", "2"]


def test_content_problems_are_counted(tiny_tokenizer: Any) -> None:
    rows = [
        {"prompt": "1 ", "chosen": "2", "rejected": "3"},
        {"prompt": "1 ", "chosen": "2", "rejected": "2"},
        {"prompt": "1 ", "chosen": " ", "rejected": "2"},
        {"prompt": "1 ", "chosen": "2", "rejected": ""},
        {"prompt": "1 ", "chosen": "<|end|>", "rejected": "2"},
        {"prompt": "1 ", "chosen": "2 ", "rejected": "2 <|end|>"},
        {"prompt": "", "chosen": "2", "rejected": "3"},
        {"prompt": "1 ", "chosen": "2 2 2 2", "rejected": "3"},
    ]
    # The last row has 1 prompt token, 4 of the chosen one and the end: 6 > 5.
    result = tokenize_preferences(Dataset.from_list(rows), tiny_tokenizer, max_length=5)
    assert [pair.id for pair in result.pairs] == ["row-0"]
    assert result.counts == {
        "chosen equals rejected": 2,
        "empty completion": 3,
        "empty prompt": 1,
        "longer than max_length": 1,
    }
    assert result.totals["rows"] == len(result.pairs) + sum(result.counts.values())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "1", "chosen": None, "rejected": "2"}, "row 1: 'chosen' is 'None', expected text"),
        ({"prompt": None, "chosen": "2", "rejected": "2"}, "row 1: 'prompt' is"),
        ({"prompt": "1", "chosen": "2", "rejected": "3", "success_rate": 1.5}, "row 1: success_rate is 1.5"),
    ],
)
def test_structural_problems_name_the_row(row: dict[str, Any], message: str, tiny_tokenizer: Any) -> None:
    good = {"prompt": "1", "chosen": "2", "rejected": "3"} | ({"success_rate": 0.5} if "success_rate" in row else {})
    with pytest.raises(DataError, match=message):
        tokenize_preferences(Dataset.from_list([good, row]), tiny_tokenizer)


def test_mixed_formats_are_refused(tiny_tokenizer: Any) -> None:
    rows = Dataset.from_list([{"prompt": "1", "chosen": [assistant("2")], "rejected": [assistant("3")]}])
    with pytest.raises(DataError, match="row 0: prompt, chosen, rejected mix text and messages"):
        tokenize_preferences(rows, tiny_tokenizer)


def save(rows: list[dict[str, Any]], kind: str, folder: Path) -> str:
    path = folder / f"data.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif kind == "saved":
        Dataset.from_list(rows).save_to_disk(path)
    else:
        DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows[:1])}).save_to_disk(path)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved", "splits"])
@pytest.mark.parametrize("rows", [STANDARD, CONVERSATIONAL], ids=["standard", "conversational"])
def test_every_kind_of_file_gives_the_same_pairs(
    kind: str, rows: list[dict[str, Any]], tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    loaded = load_preference_data(save(rows, kind, tmp_path))
    expected = tokenize_preferences(Dataset.from_list(rows), tiny_tokenizer)
    assert tokenize_preferences(loaded, tiny_tokenizer) == expected


def test_split_and_limit(tmp_path: Path) -> None:
    path = save(STANDARD, "splits", tmp_path)
    assert len(load_preference_data(path, split="test")) == 1
    assert len(load_preference_data(path, limit=1)) == 1
    assert len(load_preference_data(path, limit=10)) == 2
    with pytest.raises(DataError, match=r"has the splits \['test', 'train'\], not 'dev'"):
        load_preference_data(path, split="dev")


def test_unreadable_data_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(DataError, match=r"'nowhere.jsonl' does not exist"):
        load_preference_data("nowhere.jsonl")
    (tmp_path / "rows.csv").write_text("chosen,rejected\n")
    with pytest.raises(DataError, match=r"ends in '.csv', expected .jsonl or .parquet"):
        load_preference_data(tmp_path / "rows.csv")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty.jsonl' has no rows"):
        load_preference_data(tmp_path / "empty.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"chosen": "1", "rejected": "2"}\n{"chosen"\n')
    with pytest.raises(DataError, match=r"bad.jsonl, line 2: not JSON"):
        load_preference_data(tmp_path / "bad.jsonl")
    (tmp_path / "bad.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        load_preference_data(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"lacks the columns \['rejected'\]; it has \['prompt', 'chosen'\]"):
        load_preference_data(Dataset.from_list([{"prompt": "1", "chosen": "2"}]))
    with pytest.raises(DataError, match="no rows"):
        load_preference_data(Dataset.from_dict({"chosen": [], "rejected": []}))
