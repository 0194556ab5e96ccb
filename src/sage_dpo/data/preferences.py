"""A row of preference data, as people have it -> the form that TRL reads, or one error with place, field and remedy.

Read as meant: text or messages on each side and for the prompt; `role`/`content` or ShareGPT's `from`/`value`; a single
message; content in text parts; no content beside tool calls; `Human` and `Assistant`; the prompt once more at the start
of both conversations, or, where every row of the data has it so, at the start of both texts; text for the prompt beside
messages; a conversation beside the other answer to its last question (ms-swift). Which column holds what is `fields`
(see `sage_dpo.data.fields`). A column that belongs to the question is used or named in an error; it is never passed
over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sage_dpo.data.fields import Fields, MissingField
from sage_dpo.data.messages import Side, common_beginning, is_blank, read_side, short
from sage_dpo.errors import DataError
from sage_dpo.rules import EMPTY, EMPTY_PROMPT, EQUAL

NAMES = ("prompt", "chosen", "rejected", "system", "input", "prefix", "id", "problem_id", "success_rate")
"""Ours: `system` becomes a system message, `input` follows the prompt in a new line, `prefix` begins both answers."""

TOKENS = ("prompt_ids", "chosen_ids", "rejected_ids")
"""Columns of pairs that are token ids already."""

_REQUIRED, _PROVENANCE = NAMES[:3], NAMES[6:]
_OTHERS = ("tools", "chat_template_kwargs", "ref_chosen_logps", "ref_rejected_logps")  # TRL's, as they are
_QUESTIONS = (
    "question",
    "instruction",
    "query",
    "problem",
    "conversations",
    "conversation",
    "messages",
    "user",
    "input",
)
_ANSWERED = {"rejected_response": "messages", "rejected_messages": "messages"}
"""ms-swift: the column of the rejected answer, and that of the conversation which ends with the chosen one."""
_CONTEXT = {
    "system": "system",
    "system_prompt": "system",
    "input": "input",
    "context": "input",
    "initial_reason_steps": "prefix",
    "history": "",  # earlier turns, of which the order is not known
}


class PreferenceReader:
    """Reads the rows of one data set.

    Args:
        columns: of the data set.
        fields: ours -> the user's column or expression; empty text leaves ours out.
        source: what a message calls the data set.

    Raises:
        DataError: no column for chosen, rejected, or for a question that some column seems to hold.
    """

    def __init__(self, columns: Iterable[str], fields: Mapping[str, str | None] | None, source: str) -> None:
        self._columns = list(columns)
        row = dict.fromkeys(self._columns)
        self._fields = Fields(NAMES, {**_conventional(row), **(fields or {})})
        for name in ("chosen", "rejected"):
            if self._fields.column(name, row) not in row:
                raise DataError(f"{source}: no column for {name!r}; it has {', '.join(row) or 'none'}. {remedy(name)}")
        self._has_prompt = self._fields.has("prompt", row)
        self._names = [name for name in NAMES if self._fields.has(name, row) and self._is_plain(name, row)]
        self._used = {self._fields.column(name, row) for name in self._names}
        questions = [name for name in _QUESTIONS if name in row and name not in self._used]
        if questions and not self._has_prompt and "prompt" not in self._fields.given:
            raise DataError(
                f"{source}: no column for 'prompt', but {', '.join(questions)}, which would be lost. "
                f"{remedy('prompt', questions[0])}, or, where chosen and rejected begin with the question, "
                "fields={'prompt': ''}"
            )
        settled = {*self._fields.given, *self._names}
        self._context = [c for c, name in _CONTEXT.items() if c in row and c not in self._used and name not in settled]

    def _is_plain(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether the name alone says what a column is; `input` does beside Alpaca's `instruction`."""
        if name in self._fields.given or name not in ("input", "prefix"):
            return True
        return name == "input" and self._fields.column("prompt", row) == "instruction"

    @property
    def ignored(self) -> list[str]:
        """Columns that are not read."""
        return [column for column in self._columns if column not in {*self._used, *_OTHERS}]

    def read(self, row: Mapping[str, Any], place: str, *, strips_prompt: bool = False) -> dict[str, Any]:
        """Return `chosen`, `rejected` and, unless it is implicit in two texts, `prompt`; and ours of the rest.

        Raises:
            DataError: the row cannot be read as meant.
        """
        for column in self._context:
            if not _is_blank_value(row.get(column)):
                name = _CONTEXT[column]
                mend = f"{remedy(name, column)}, or leave it out: fields={{{name!r}: ''}}"
                raise DataError(
                    f"{place}: the column {column!r} holds {short(row[column])}, which belongs to the question and "
                    f"would be lost. {mend if name else 'Write it into the prompt as messages, or drop the column'}"
                )
        sides = {name: read_side(self._value(row, name, place), name, place) for name in ("chosen", "rejected")}
        prompt = read_side(self._value(row, "prompt", place), "prompt", place) if self._has_prompt else None
        extra = {name: self._text(row, name, place) for name in ("system", "input", "prefix")}
        prompt, sides = _with_context(prompt, sides, extra, place)
        values: list[Side | None] = [prompt, *sides.values()]
        if any(isinstance(value, list) for value in values):
            prompt, sides = _conversation(prompt, sides, place)
        elif strips_prompt:
            sides = {name: str(side).removeprefix(str(prompt)) for name, side in sides.items()}
        rest = {name: self._value(row, name, place) for name in self._names if name in _PROVENANCE}
        rest |= {name: row[name] for name in _OTHERS if row.get(name) is not None}
        result = {**({} if prompt is None else {"prompt": prompt}), **sides, **rest}
        if "success_rate" in rest:
            result["success_rate"] = success_rate(rest["success_rate"], place)
        return result

    def _value(self, row: Mapping[str, Any], name: str, place: str) -> Any:
        if name not in (*_REQUIRED, *self._fields.given) and name not in row:
            return None
        try:
            return self._fields.value(name, row)
        except MissingField as error:
            present = ", ".join(map(str, row)) or "none"
            raise DataError(
                f"{place}: no {str(error)!r} for {name!r}; the columns present are {present}. {remedy(name)}"
            ) from None

    def _text(self, row: Mapping[str, Any], name: str, place: str) -> str:
        value = self._value(row, name, place) if name in self._names else None
        if value is not None and not isinstance(value, str):
            raise DataError(f"{place}: {name!r} is {short(value)}, expected text; mend this row")
        return value if value and value.strip() else ""


def _conventional(columns: Mapping[str, Any]) -> dict[str, str]:
    """Return which columns are ours where a trainer's own names say it beyond doubt, and no column has our names."""
    if {"chosen", "rejected"} & set(columns):
        return {}
    pairs = (
        {"chosen": chosen, "rejected": rejected}
        for rejected, chosen in _ANSWERED.items()
        if {rejected, chosen} <= set(columns)
    )
    return next(pairs, {})


def remedy(name: str, column: str = "COLUMN") -> str:
    """Say how a column is named, in Python, in a recipe and on the command line."""
    return (
        f"Say which column it is: fields={{{name!r}: {column!r}}} (recipe: pairs.fields; command line: "
        f"--field {name}={column}; SAGEConfig: fields)"
    )


def exclusion(row: Mapping[str, Any]) -> str | None:
    """Return why a row that was read cannot be trained on, or `None`; what only its tokens tell comes later."""
    if row["chosen"] == row["rejected"]:
        return EQUAL
    if is_blank(row["chosen"]) or is_blank(row["rejected"]):
        return EMPTY
    return EMPTY_PROMPT if "prompt" in row and is_blank(row["prompt"]) else None


def repeats_prompt(row: Mapping[str, Any]) -> bool:
    """Whether both texts of a row begin with its prompt."""
    prompt, sides = row.get("prompt"), (row["chosen"], row["rejected"])
    if not isinstance(prompt, str) or not prompt.strip():
        return False
    return all(isinstance(side, str) and side.startswith(prompt) for side in sides)


def _with_context(
    prompt: Side | None, sides: dict[str, Side], extra: Mapping[str, str], place: str
) -> tuple[Side | None, dict[str, Side]]:
    """Put the texts of `system`, `input` and `prefix` where they belong."""
    if extra["input"]:
        if not isinstance(prompt, str):
            raise DataError(f"{place}: 'input' follows a prompt of text, but the prompt is {short(prompt)}; map one")
        prompt = f"{prompt}\n{extra['input']}" if prompt.strip() else extra["input"]
    if extra["prefix"]:
        sides = {name: _prefixed(side, extra["prefix"]) for name, side in sides.items()}
    if extra["system"]:
        system = {"role": "system", "content": extra["system"]}
        if prompt is None:
            raise DataError(f"{place}: 'system' needs a prompt beside it; {remedy('prompt')}")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if messages and messages[0]["role"] == "system" and messages[0] != system:
            raise DataError(f"{place}: the prompt has a system message beside 'system'; leave out: --field system=")
        prompt = messages if messages and messages[0] == system else [system, *messages]
    return prompt, sides


def _prefixed(side: Side, prefix: str) -> Side:
    if isinstance(side, str):
        return prefix + side
    return [{**side[0], "content": prefix + side[0]["content"]}, *side[1:]] if side else side


def _conversation(
    prompt: Side | None, sides: dict[str, Side], place: str
) -> tuple[list[dict[str, Any]], dict[str, Side]]:
    """Return prompt and sides as messages, the prompt not repeated in the sides."""
    if prompt is None:
        prompt, sides = _answered(sides)
    chosen, rejected = (
        [{"role": "assistant", "content": side}] if isinstance(side, str) else side for side in sides.values()
    )
    common = common_beginning(chosen, rejected)
    asks = common and common[0]["role"] in ("user", "system")
    if prompt is None or (isinstance(prompt, str) and asks):
        texts = [message["content"].strip() for message in common if message["role"] == "user"]
        if prompt is not None and str(prompt).strip() not in texts:
            raise DataError(
                f"{place}: the prompt {short(prompt)} is not among the questions that chosen and rejected share; "
                "mend this row, or take the question from them: --field prompt="
            )
        if not common:
            raise DataError(f"{place}: no prompt, and chosen and rejected share no message; {remedy('prompt')}")
        messages = common
    elif isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt}]
    else:
        messages = prompt
    size = len(messages)
    begins = [len(side) > size > 0 and side[:size] == messages for side in (chosen, rejected)]
    if all(begins):
        chosen, rejected = chosen[size:], rejected[size:]
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if side and side[0]["role"] in ("user", "system"):
            raise DataError(
                f"{place}: {name!r} begins with a {side[0]['role']} message {short(side[0]['content'])} that is not "
                "the prompt's, expected the assistant's answer; mend this row, or map another column"
            )
    return messages, {"chosen": chosen, "rejected": rejected}


def _answered(sides: dict[str, Side]) -> tuple[Side | None, dict[str, Side]]:
    """Take a text as the other answer to the last question of the conversation beside it."""
    talks = [side for side in sides.values() if isinstance(side, list)]
    if len(talks) != 1 or len(talks[0]) < 2 or talks[0][-1]["role"] != "assistant":
        return None, sides
    return talks[0][:-1], {name: side if isinstance(side, str) else side[-1:] for name, side in sides.items()}


def success_rate(rate: Any, place: str) -> float | None:
    """Return a row's success rate; `None` where it has none.

    Raises:
        DataError: no number in [0, 1].
    """
    if rate is None or rate != rate:
        return None
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate <= 1.0:
        raise DataError(
            f"{place}: success_rate is {rate!r}, expected a number in [0, 1] or nothing; if the column means something "
            "else, leave it out: fields={'success_rate': ''} (command line: --field success_rate=)"
        )
    return float(rate)


def _is_blank_value(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})
