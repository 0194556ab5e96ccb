"""Preference rows as people have them: read as meant, or refused with place, field and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from sage_dpo.data.preferences import PreferenceReader, exclusion, repeats_prompt
from sage_dpo.errors import DataError


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "You solve sums."}
CALL = {"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"x": 7}}}]}
Q, GOOD, BAD = "What is 7 + 8?", "It is 15.", "It is 14."
TEXTS = {"prompt": Q, "chosen": GOOD, "rejected": BAD}
TALK = {"prompt": [user(Q)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]}


def parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def read(row: dict[str, Any], fields: dict[str, str | None] | None = None) -> dict[str, Any]:
    return PreferenceReader(row, fields, "d.jsonl").read(row, "d.jsonl, line 1")


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        # TRL's own
        (TEXTS, None, TEXTS),
        (TALK, None, TALK),
        ({"chosen": GOOD, "rejected": BAD}, None, {"chosen": GOOD, "rejected": BAD}),
        ({"chosen": [user(Q), assistant(GOOD)], "rejected": [user(Q), assistant(BAD)]}, None, TALK),
        # another column holds the question
        ({"question": Q, "chosen": GOOD, "rejected": BAD}, {"prompt": "question"}, TEXTS),
        ({"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD}, {"prompt": "instruction"}, TEXTS),
        (
            {"instruction": "Solve.", "input": Q, "chosen": GOOD, "rejected": BAD},
            {"prompt": "instruction"},
            {**TEXTS, "prompt": f"Solve.\n{Q}"},
        ),
        ({"question": Q, "p": {"chosen": GOOD}, "rejected": BAD}, {"prompt": "question", "chosen": "p.chosen"}, TEXTS),
        # a system prompt
        ({**TEXTS, "system": "You solve sums."}, None, {**TALK, "prompt": [SYSTEM, user(Q)]}),
        ({**TALK, "system": "You solve sums."}, None, {**TALK, "prompt": [SYSTEM, user(Q)]}),
        (
            {**TALK, "prompt": [SYSTEM, user(Q)], "system": SYSTEM["content"]},
            None,
            {**TALK, "prompt": [SYSTEM, user(Q)]},
        ),
        ({**TEXTS, "system": " "}, None, TEXTS),
        ({**TEXTS, "system": "You solve sums."}, {"system": None}, TEXTS),
        ({**TEXTS, "s": "You solve sums."}, {"system": "s"}, {**TALK, "prompt": [SYSTEM, user(Q)]}),
        # steps that both answers begin with
        (
            {**TEXTS, "initial_reason_steps": "Step 1. "},
            {"prefix": "initial_reason_steps"},
            {**TEXTS, "chosen": f"Step 1. {GOOD}", "rejected": f"Step 1. {BAD}"},
        ),
        # the question once more in both conversations, and as text beside them
        ({"prompt": Q, "chosen": [user(Q), assistant(GOOD)], "rejected": [user(Q), assistant(BAD)]}, None, TALK),
        (
            {"prompt": [user(Q)], "chosen": [user(Q), assistant(GOOD)], "rejected": [user(Q), assistant(BAD)]},
            None,
            TALK,
        ),
        ({**TALK, "prompt": Q}, None, TALK),
        ({**TEXTS, "prompt": [user(Q)]}, None, TALK),
        (
            {"prompt": Q, "chosen": [SYSTEM, user(Q), assistant(GOOD)], "rejected": [SYSTEM, user(Q), assistant(BAD)]},
            None,
            {**TALK, "prompt": [SYSTEM, user(Q)]},
        ),
        # messages in other spellings
        (
            {
                "conversations": [{"from": "human", "value": Q}],
                "chosen": {"from": "gpt", "value": GOOD},
                "rejected": {"from": "gpt", "value": BAD},
            },
            {"prompt": "conversations"},
            TALK,
        ),
        (
            {
                "chosen": [{"role": "Human", "content": Q}, {"role": "Assistant", "content": GOOD}],
                "rejected": [{"role": "Human", "content": Q}, {"role": "Assistant", "content": BAD}],
            },
            None,
            TALK,
        ),
        ({name: [{**value[0], "content": parts(value[0]["content"])}] for name, value in TALK.items()}, None, TALK),
        (
            {**TALK, "chosen": [{"role": "assistant", **CALL}, assistant(GOOD)]},
            None,
            {**TALK, "chosen": [{**assistant(""), **CALL}, assistant(GOOD)]},
        ),
        (
            {**TALK, "chosen": [{**assistant(GOOD), "name": None, "tool_calls": None}]},  # gaps that Arrow fills up
            None,
            TALK,
        ),
        # a conversation, and another answer to its last question (ms-swift)
        (
            {"messages": [SYSTEM, user(Q), assistant(GOOD)], "rejected_response": BAD},
            None,
            {**TALK, "prompt": [SYSTEM, user(Q)]},
        ),
        ({"messages": [user(Q), assistant(GOOD)], "rejected_messages": [user(Q), assistant(BAD)]}, None, TALK),
        (
            {"conversation": [user(Q), assistant(GOOD)], "other": BAD},
            {"chosen": "conversation", "rejected": "other"},
            TALK,
        ),
        ({"messages": [user(Q)], "chosen": assistant(GOOD), "rejected": assistant(BAD)}, {"prompt": "messages"}, TALK),
        # what stands beside
        ({**TEXTS, "success_rate": 0.25, "id": 7}, None, {**TEXTS, "success_rate": 0.25, "id": 7}),
        ({**TEXTS, "success_rate": float("nan")}, None, {**TEXTS, "success_rate": None}),
        ({**TEXTS, "success_rate": "80 %"}, {"success_rate": ""}, TEXTS),
        ({**TEXTS, "question": Q, "answer": "15", "messages": []}, None, TEXTS),
    ],
)
def test_a_row_is_read_as_meant(row: dict[str, Any], fields: Any, expected: dict[str, Any]) -> None:
    assert read(row, fields) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": Q, "chosen": GOOD, "rejected": BAD},
            "d.jsonl: no column for 'prompt', but question, which would",
        ),
        (
            {"conversations": [], "chosen": GOOD, "rejected": BAD},
            "fields={'prompt': 'conversations'} (recipe: pairs.fi",
        ),
        ({"question": Q, "chosen": GOOD, "rejected": BAD}, "command line: --field prompt=question"),
        ({"messages": [user(Q)], "chosen": GOOD, "rejected": BAD}, "no column for 'prompt', but messages, which would"),
        ({"messages": [user(Q)], "rejected_response": BAD}, "no prompt, and chosen and rejected share no"),
        ({"prompt": Q, "chosen": GOOD, "no": BAD}, "d.jsonl: no column for 'rejected'; it has prompt, chosen, no."),
        (
            {**TEXTS, "initial_reason_steps": "Step 1"},
            "line 1: the column 'initial_reason_steps' holds 'Step 1', which",
        ),
        ({**TEXTS, "history": [["a", "b"]]}, "the column 'history' holds [['a', 'b']], which belongs to the question"),
        (
            {**TEXTS, "input": "7, 8"},
            "the column 'input' holds '7, 8', which belongs to the question and would be lost",
        ),
        (
            {**TEXTS, "rejected": [BAD, "No."]},
            "'rejected' is a list of 2 texts, expected one; choose one of them: fields",
        ),
        ({**TEXTS, "chosen": None}, "line 1: 'chosen' is None, expected text or a list of messages"),
        ({**TEXTS, "prompt": None}, "line 1: 'prompt' is None, expected text or a list of messages"),
        ({**TEXTS, "chosen": 15}, "'chosen' is 15, expected text or a list of messages"),
        (
            {**TALK, "chosen": [{"role": "assistant"}]},
            "'chosen' holds the message {'role': 'assistant'}, expected role",
        ),
        ({**TALK, "chosen": [{"from": "alien", "value": "x"}]}, "expected role and content, or ShareGPT's from"),
        ({**TALK, "chosen": [{**assistant(""), "content": 15}]}, "'chosen' has the content 15, expected text"),
        (
            {**TALK, "prompt": [{"role": "user", "content": [{"type": "image"}, *parts(Q)]}]},
            "'prompt' has content parts of the kinds ['image', 'text'], expected text",
        ),
        (
            {"chosen": [user(Q), assistant(GOOD)], "rejected": [user("Other?"), assistant(BAD)]},
            "no prompt, and chosen and rejected share no message",
        ),
        (
            {"prompt": "Other?", "chosen": [user(Q), assistant(GOOD)], "rejected": [user(Q), assistant(BAD)]},
            "the prompt 'Other?' is not among the questions that chosen and rejected share",
        ),
        (
            {"prompt": [user("Other?")], "chosen": [user(Q), assistant(GOOD)], "rejected": [user(Q), assistant(BAD)]},
            "'chosen' begins with a user message 'What is 7 + 8?' that is not the prompt's",
        ),
        ({**TALK, "rejected": [user(Q), assistant(BAD)]}, "'rejected' begins with a user message"),
        ({**TALK, "prompt": [SYSTEM, user(Q)], "system": "Else."}, "has a system message beside 'system'"),
        (
            {**TEXTS, "success_rate": 80},
            "success_rate is 80, expected a number in [0, 1] or nothing; if the column means",
        ),
        ({**TEXTS, "success_rate": "high"}, "success_rate is 'high'"),
    ],
)
def test_what_cannot_be_read_is_one_error(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(row)
    assert message in str(caught.value)
    assert str(caught.value).startswith("d.jsonl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"rejected": [assistant(GOOD)]}, "chosen equals rejected"),
        ({"rejected": [{"role": "assistant", "content": None}]}, "empty completion"),
        ({"rejected": []}, "empty completion"),
        ({"chosen": [{"role": "assistant", "content": None, **CALL}]}, None),
        ({"prompt": [{"role": "user", "content": None}]}, "empty prompt"),
        ({"prompt": [SYSTEM, user(" ")]}, "empty prompt"),
    ],
)
def test_rows_that_say_nothing_are_excluded(changes: dict[str, Any], reason: str | None) -> None:
    assert exclusion(read({**TALK, **changes})) == reason


def test_a_prompt_at_the_start_of_both_texts_is_seen_and_taken_off() -> None:
    row = {"prompt": Q, "chosen": f"{Q} {GOOD}", "rejected": f"{Q} {BAD}"}
    reader = PreferenceReader(row, None, "d")
    assert repeats_prompt(reader.read(row, "d"))
    assert not repeats_prompt(TEXTS)
    assert not repeats_prompt(TALK)
    assert not repeats_prompt({**TEXTS, "prompt": ""})
    assert reader.read(row, "d", strips_prompt=True) == {"prompt": Q, "chosen": f" {GOOD}", "rejected": f" {BAD}"}


def test_columns_that_are_not_read_are_known() -> None:
    row = {**TEXTS, "id": 1, "tools": None, "source": "x", "score": 2}
    assert PreferenceReader(row, None, "d").ignored == ["source", "score"]
