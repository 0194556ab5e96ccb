"""What a tokenizer must have and keep."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from tests.support.tiny import make_tiny_tokenizer

from sage_dpo.data.tokens import TextBound, doubled_marks
from sage_dpo.errors import EmptyPoolError
from sage_dpo.pairs import tokenize_preferences
from sage_dpo.selection.dataset import read_preferences, trainable_rows

LONG = "1 " * 60_000
ROWS = [{"prompt": "1 ", "chosen": "2", "rejected": "3"}, {"prompt": "1 ", "chosen": "2", "rejected": LONG}]


def test_a_text_that_is_surely_too_long_is_not_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tiny_tokenizer()
    asked = []
    monkeypatch.setattr(type(tokenizer), "__call__", lambda self, text: asked.append(text) or {"input_ids": [5, 6, 7]})
    with pytest.raises(EmptyPoolError, match="excluded"):  # of the first row the tokens are equal here, so none remains
        tokenize_preferences(Dataset.from_list(ROWS), tokenizer, max_length=8)
    assert asked
    assert not any(len(text) > 100 for text in asked)


def test_the_trainer_excludes_it_too(tiny_tokenizer: Any) -> None:
    data, counts = read_preferences(Dataset.from_list(ROWS), tiny_tokenizer, None, "train_dataset", max_length=8)
    assert (len(data), counts) == (1, {"longer than max_length": 1})
    assert len(read_preferences(Dataset.from_list(ROWS), tiny_tokenizer, None, "train_dataset")[0]) == 2


def test_the_bound_never_excludes_what_could_fit(tiny_tokenizer: Any) -> None:
    longest = max(map(len, tiny_tokenizer.get_vocab()))
    bound = TextBound(tiny_tokenizer, 50_000)
    fits = "x" * (50_000 * longest - 2)
    assert not bound.is_exceeded({"prompt": "1", "chosen": fits, "rejected": "3"})
    assert bound.is_exceeded({"prompt": [{"role": "user", "content": "111"}], "chosen": fits, "rejected": "3"})
    assert not TextBound(tiny_tokenizer, None).is_exceeded({"chosen": LONG * 9, "rejected": "3"})


def test_marks_that_text_and_tokenizer_both_write_are_counted(caplog: Any) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.bos_token = "<|user|>"
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert doubled_marks(tokenizer, [begin, 6], [7, end], [8, end]) == []
    pair = ([begin, begin, 6], [7, end], [8, end, end])
    assert doubled_marks(tokenizer, *pair) == [
        "two begin tokens before the prompt",
        "two end tokens behind a completion",
    ]
    data = Dataset.from_list([dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), pair, strict=True))])
    assert trainable_rows(data, None, tokenizer, "train_dataset") == ([0], {})
    assert "1 of 1 pairs of train_dataset have two begin tokens before the prompt" in caplog.text
