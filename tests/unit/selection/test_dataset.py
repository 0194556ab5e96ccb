"""Rows of a tokenized data set: which can be trained on, and whether their success rates are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from sage_dpo.errors import ConfigError, DataError, EmptyPoolError
from sage_dpo.selection.dataset import read_preferences, success_rate_column, usable_rows

EOS = 4


def rows(*sequences: tuple[list[int], list[int], list[int]]) -> Dataset:
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return Dataset.from_list([{"id": "x", **dict(zip(names, ids, strict=True))} for ids in sequences])


def test_rows_that_cannot_be_trained_on_whole_are_counted_by_reason() -> None:
    data = rows(
        ([1], [2, EOS], [3, EOS]),
        ([], [2, EOS], [3, EOS]),
        ([1], [EOS], [3, EOS]),
        ([1], [2, EOS], [2, EOS]),
        ([1], [2, 2, 2, EOS], [3, EOS]),
        ([1], [2, EOS], [3, 3, 3, EOS]),
        ([1, 1], [2, EOS], [3, EOS]),
    )
    kept, counts = usable_rows(data, 4, EOS)
    assert kept == [0, 6]
    assert counts == {
        "empty prompt": 1,
        "empty completion": 1,
        "chosen equals rejected": 1,
        "longer than max_length": 2,
    }


def test_without_a_bound_or_an_end_token_only_structure_counts() -> None:
    kept, counts = usable_rows(rows(([1] * 900, [EOS], [3]), ([1], [2], [2])), None, None)
    assert (kept, counts) == ([0], {"chosen equals rejected": 1})


def test_success_rates_are_all_known_or_none() -> None:
    data = rows(([1], [2], [3]), ([1], [2], [4]))
    assert success_rate_column(data) is None
    assert success_rate_column(data.add_column("success_rate", [0.5, None])) is None
    known = success_rate_column(data.add_column("success_rate", [0.5, 1.0]))
    assert known is not None
    np.testing.assert_array_equal(known, [0.5, 1.0])


Q, TEXTS = "1 + 2 ", {"chosen": "3", "rejected": "4"}
TALK = {side: [{"role": "assistant", "content": text}] for side, text in TEXTS.items()}


def read(rows: list[dict[str, Any]], tokenizer: Any, fields: dict[str, str | None] | None = None) -> Dataset:
    return read_preferences(Dataset.from_list(rows), tokenizer, fields, "train_dataset")[0]


def test_data_in_trls_form_is_left_alone(tiny_tokenizer: Any) -> None:
    for row in ({"prompt": Q, **TEXTS, "x": 1}, {"prompt": [{"role": "user", "content": Q}], **TALK}, TEXTS):
        data = Dataset.from_list([row])
        assert read_preferences(data, tiny_tokenizer, None, "train_dataset") == (data, {})


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"question": Q, **TALK}, {"prompt": "question"}),
        ({"prompt": Q, **TALK}, None),
        ({"prompt": [{"role": "Human", "content": Q}], **TEXTS}, None),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": Q}]}], **TALK}, None),
        ({s: [{"role": "user", "content": Q}, *TALK[s]] for s in TALK}, None),
    ],
)
def test_other_data_comes_in_trls_form(row: dict[str, Any], fields: Any, tiny_tokenizer: Any) -> None:
    data = read([{**row, "success_rate": 0.5}], tiny_tokenizer, fields)
    assert data[0] == {"prompt": [{"role": "user", "content": Q}], **TALK, "success_rate": 0.5}


def test_the_question_is_never_lost_without_a_word(tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"train_dataset: no column for 'prompt', but question, which would be lost"):
        read([{"question": Q, **TEXTS}], tiny_tokenizer)
    with pytest.raises(DataError, match=r"train_dataset\[1\]: 'chosen' is None, expected text"):
        read([{"prompt": Q, **TEXTS}, {"prompt": Q, "chosen": None, "rejected": "4"}], tiny_tokenizer)
    tools = [{"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}]
    with pytest.raises(
        ConfigError, match=r"train_dataset\[0\]: a message has 'tool_calls', which the tokenizer's chat"
    ):
        read([{"prompt": [{"role": "user", "content": Q}], **TALK, "chosen": tools}], tiny_tokenizer)


def test_rows_that_say_nothing_are_counted(tiny_tokenizer: Any) -> None:
    rows = [{"prompt": Q, **TEXTS}, {"prompt": " ", **TEXTS}, {"prompt": Q, "chosen": "", "rejected": "4"}]
    data, counts = read_preferences(Dataset.from_list(rows), tiny_tokenizer, None, "train_dataset")
    assert (len(data), counts) == (1, {"empty prompt": 1, "empty completion": 1})
    with pytest.raises(EmptyPoolError, match=r"no usable pair in train_dataset, excluded: \{'empty prompt': 1\}"):
        read([rows[1]], tiny_tokenizer)


def test_token_ids_must_be_the_tokenizers(tiny_tokenizer: Any) -> None:
    good = ([1], [2, EOS], [3, EOS])
    assert len(read(list(rows(good)), tiny_tokenizer)) == 1
    with pytest.raises(DataError, match=r"train_dataset\[1\]: chosen_ids has token ids from 4 to 64, expected 0 to 63"):
        read(list(rows(good, ([1], [64, EOS], [3, EOS]))), tiny_tokenizer)


def test_a_foreign_success_rate_is_refused_or_left_out() -> None:
    data = Dataset.from_list([{"success_rate": "80 %"}])
    with pytest.raises(DataError, match=r"train_dataset\[0\]: success_rate is '80 %', expected a number in \[0, 1\]"):
        success_rate_column(data)
    assert success_rate_column(data, {"success_rate": ""}) is None
