"""Preference data sets: TRL's formats, TRL's token ids, counted exclusions, errors with row numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from tests.support.tiny import CHAT_TEMPLATE, make_tiny_model, make_tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from trl import DPOConfig, DPOTrainer

from sage_dpo.errors import ConfigError, DataError
from sage_dpo.pairs import load_preference_data, preference_rows, tokenize_preferences
from sage_dpo.records import PreferencePair
from sage_dpo.storage import write_records


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
        ({"prompt": "1", "chosen": None, "rejected": "2"}, "row 2: 'chosen' is None, expected text"),
        ({"prompt": None, "chosen": "2", "rejected": "2"}, "row 2: 'prompt' is"),
        ({"prompt": "1", "chosen": "2", "rejected": "3", "success_rate": 1.5}, "row 2: success_rate is 1.5"),
    ],
)
def test_structural_problems_name_the_row(row: dict[str, Any], message: str, tiny_tokenizer: Any) -> None:
    good = {"prompt": "1", "chosen": "2", "rejected": "3"} | ({"success_rate": 0.5} if "success_rate" in row else {})
    with pytest.raises(DataError, match=message):
        tokenize_preferences(Dataset.from_list([good, row]), tiny_tokenizer)


def test_text_beside_messages_is_a_message(tiny_tokenizer: Any) -> None:
    row = {"prompt": "1", "chosen": [assistant("2")], "rejected": [assistant("3")]}
    as_messages = {**row, "prompt": [user("1")]}
    assert tokenize_preferences(Dataset.from_list([row]), tiny_tokenizer) == tokenize_preferences(
        Dataset.from_list([as_messages]), tiny_tokenizer
    )


def test_a_prompt_that_every_answer_begins_with_is_taken_off(tiny_tokenizer: Any, caplog: Any) -> None:
    plain = [{"prompt": "1 + ", "chosen": "2", "rejected": "3"}, {"prompt": "4 + ", "chosen": "5", "rejected": "6"}]
    repeated = [{"prompt": r["prompt"], **{s: r["prompt"] + r[s] for s in ("chosen", "rejected")}} for r in plain]
    expected = tokenize_preferences(Dataset.from_list(plain), tiny_tokenizer)
    assert tokenize_preferences(Dataset.from_list(repeated), tiny_tokenizer) == expected
    assert "in 2 of 2 rows both answers begin with the prompt: taken off" in caplog.text
    kept = tokenize_preferences(Dataset.from_list([repeated[0], plain[1]]), tiny_tokenizer).pairs
    assert kept[0].chosen == "1 + 2"  # one answer may well restate its question
    assert "in 1 of 2 rows both answers begin with the prompt: left, as the others do not" in caplog.text


def test_a_template_that_drops_a_part_is_refused() -> None:
    def refused(messages: list[dict[str, Any]], tokenizer: Any) -> str:
        row = {"prompt": messages, "chosen": [assistant("2")], "rejected": [assistant("3")]}
        with pytest.raises(ConfigError) as caught:
            tokenize_preferences(load_preference_data([row]), tokenizer)
        return str(caught.value)

    system = {"role": "system", "content": "w1"}
    without = make_tiny_tokenizer(chat_template=None)
    assert "row 1: holds messages, but the tokenizer has no chat template" in refused([user("1")], without)
    only_users = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}"
    dropping = make_tiny_tokenizer(chat_template=only_users)
    assert "does not write the system message 'w1'" in refused([system, user("1")], dropping)
    strict = make_tiny_tokenizer(chat_template="{{ raise_exception('no system') if messages[0]['role'] == 'system' }}")
    assert "refuses the roles system, user, assistant: no system" in refused([system, user("1")], strict)
    thought = {**assistant("w2"), "reasoning_content": "w3"}
    assert "'reasoning_content', which the tokenizer's chat template does not" in refused(
        [user("1"), thought, user("4")], make_tiny_tokenizer()
    )


def test_text_needs_an_end_token_and_doubled_marks_are_counted(caplog: Any) -> None:
    tokenizer = make_tiny_tokenizer()
    row = {"prompt": "1 ", "chosen": "2 <|end|> <|end|>", "rejected": "3"}
    doubled = tokenize_preferences(load_preference_data([row]), tokenizer)
    assert len(doubled.pairs) == 1
    assert "1 of 1 pairs have two end tokens behind a completion" in caplog.text
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="the tokenizer has no end-of-sequence token"):
        tokenize_preferences(load_preference_data(STANDARD), tokenizer)


def test_token_ids_are_kept_as_they_are(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """Words that a tokenizer would split otherwise, a template, provenance: nothing of it is made anew."""
    pair = PreferencePair("q/v0/1-2", "q", (2, 5, 3), (6, 7, 4), (8,), "1 + 2", "3 w", "4", 0.25, 1, 2, 3)
    write_records(tmp_path / "pairs.parquet", [pair], PreferencePair)
    assert tokenize_preferences(load_preference_data(tmp_path / "pairs.parquet"), tiny_tokenizer).pairs == [pair]
    foreign = replace(pair, chosen_ids=(6, 700))
    write_records(tmp_path / "pairs.parquet", [foreign], PreferencePair)
    with pytest.raises(DataError, match=r"row 1: chosen_ids has token ids from 6 to 700, expected 0 to 63"):
        tokenize_preferences(load_preference_data(tmp_path / "pairs.parquet"), tiny_tokenizer)


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
    with pytest.raises(DataError, match=r"holds the splits test, train, expected one, not 'dev'"):
        load_preference_data(path, split="dev")


def test_unreadable_data_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(DataError, match=r"nowhere.jsonl: no such file or folder"):
        load_preference_data("nowhere.jsonl")
    (tmp_path / "rows.csv").write_text("chosen,rejected\n")
    with pytest.raises(DataError, match=r"the suffix '.csv' is not supported; expected JSON lines"):
        load_preference_data(tmp_path / "rows.csv")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty.jsonl has no rows"):
        load_preference_data(tmp_path / "empty.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"chosen": "1", "rejected": "2"}\n{"chosen"\n')
    with pytest.raises(DataError, match=r"bad.jsonl, line 2: not JSON"):
        load_preference_data(tmp_path / "bad.jsonl")
    (tmp_path / "bad.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_preference_data(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="no column for 'rejected'; it has prompt, chosen"):
        load_preference_data(Dataset.from_list([{"prompt": "1", "chosen": "2"}]))
    with pytest.raises(DataError, match="no rows"):
        load_preference_data(Dataset.from_dict({"chosen": [], "rejected": []}))


@pytest.mark.parametrize("name", ["data/pairs", "./pairs", "/data/pairs/", "my pairs"])
def test_a_mistyped_folder_is_no_raw_error_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("cannot reach\nthe hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(DataError, match=r"no such file or folder|is no local file or folder, and as a hub") as caught:
        load_preference_data(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("begins", [False, True], ids=["plain", "begin token"])
def test_pairs_written_as_text_are_read_back_as_the_same_tokens(begins: bool) -> None:
    """The system prompt and the template are in the text, and nothing follows the end token."""
    tokenizer = make_tiny_tokenizer(chat_template=CHAT_TEMPLATE.replace("<|end|> '", "<|end|> w9 '"))
    if begins:
        tokenizer.bos_token = "<|unk|>"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<|unk|> $A", special_tokens=[("<|unk|>", 1)])
    messages = [{"role": "system", "content": "w3"}, user("1 + 2")]
    prompt_ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    prompt_ids = [tokenizer.bos_token_id, *prompt_ids] if begins else prompt_ids
    encode = partial(tokenizer.encode, add_special_tokens=False)
    pair = PreferencePair(
        "p/v0/0-1", "p", tuple(prompt_ids), tuple(encode("3 <|end|>")), tuple(encode("w1 4 <|end|>")), success_rate=0.5
    )
    cut = replace(pair, rejected_ids=pair.rejected_ids[:-1])
    rows, changed = preference_rows([pair, cut], tokenizer)
    assert changed == 1  # text always gets an end token, which the cut completion does not have
    first = tokenize_preferences(load_preference_data(rows[:1]), tokenizer).pairs[0]
    assert (first.prompt_ids, first.chosen_ids, first.rejected_ids) == (
        pair.prompt_ids,
        pair.chosen_ids,
        pair.rejected_ids,
    )
    assert (first.problem_id, first.success_rate) == ("p", 0.5)
