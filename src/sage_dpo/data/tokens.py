"""What a tokenizer must have and keep, for preference pairs to become the tokens that were meant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_dpo.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPOKEN = ("tool_calls", "reasoning_content", "reasoning", "thinking")
"""Keys of a message, beside its content, that a template must write."""


class TemplateCheck:
    """Refuses conversations of which the chat template drops a part.

    Args:
        tokenizer: with the template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._seen: set[tuple[Any, ...]] = set()

    def __call__(self, row: Mapping[str, Any], place: str) -> None:
        """Look at a row whose shape (roles and keys) was not seen before.

        Raises:
            ConfigError: no template, or one that drops a message or a part of it, or refuses the conversation.
        """
        if self._tokenizer.chat_template is None:
            raise ConfigError(
                f"{place}: holds messages, but the tokenizer has no chat template; set one, or give the data as text"
            )
        for side in ("chosen", "rejected"):
            messages = [*row["prompt"], *row[side]]
            shape = tuple((message["role"], *(key for key in _SPOKEN if message.get(key))) for message in messages)
            if shape not in self._seen:
                self._look(messages, place)
                self._seen.add(shape)

    def _look(self, messages: list[dict[str, Any]], place: str) -> None:
        template: Any = self._tokenizer.chat_template
        for key in _SPOKEN:
            if any(message.get(key) for message in messages) and key not in str(template):
                raise ConfigError(
                    f"{place}: a message has {key!r}, which the tokenizer's chat template does not write, so it would "
                    "be lost; set a template that does, or write it into the content"
                )
        try:
            text = str(self._tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # a template is a program and may raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            roles = ", ".join(message["role"] for message in messages)
            raise ConfigError(
                f"{place}: the tokenizer's chat template refuses the roles {roles}: {reason}; mend the row, or set "
                "another template"
            ) from error
        for message in messages:
            content = message["content"].strip()
            if content not in text and "</think>" not in content:  # templates take thoughts off earlier answers
                raise ConfigError(
                    f"{place}: the tokenizer's chat template does not write the {message['role']} message "
                    f"{content[:60]!r}, so it would be lost; set a template that does, or leave the message out"
                )


class TextBound:
    """Tells, without tokenizing, texts that are surely longer than so many tokens: one of 50 MB takes gigabytes.

    A text of n characters has at least n / (characters of the longest token) tokens.

    Args:
        tokenizer: of the policy.
        max_length: longest prompt + completion in tokens; `None` sets no bound.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> None:
        self._most = math.inf
        if max_length is not None:
            longest = max(map(len, tokenizer.get_vocab()), default=1)
            self._most = max(max_length * longest, _ALWAYS_TOKENIZED)

    def is_exceeded(self, row: Mapping[str, Any]) -> bool:
        """Whether prompt and a completion of a row are surely too long."""
        prompt, *sides = (_characters(row.get(name)) for name in ("prompt", "chosen", "rejected"))
        return prompt + max(sides) > self._most


_ALWAYS_TOKENIZED = 100_000  # characters: cheap, and a word that a tokenizer does not know is one token, however long


def _characters(side: Any) -> int:
    return len(side) if isinstance(side, str) else sum(len(message["content"]) for message in side or [])


def doubled_marks(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    chosen_ids: Sequence[int],
    rejected_ids: Sequence[int],
) -> list[str]:
    """Return what a pair has twice because text and tokenizer both write it; empty is right."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    marks = []
    if begin is not None and list(prompt_ids[:2]) == [begin, begin]:
        marks.append("two begin tokens before the prompt")
    if end is not None and [end, end] in (list(chosen_ids[-2:]), list(rejected_ids[-2:])):
        marks.append("two end tokens behind a completion")
    return marks


def end_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the end-of-sequence token, which closes a completion of plain text.

    Raises:
        ConfigError: there is none.
    """
    token = tokenizer.eos_token
    if not isinstance(token, str):
        raise ConfigError(
            "the tokenizer has no end-of-sequence token, which closes a completion; set tokenizer.eos_token, or save "
            "the model's folder with one"
        )
    return token


def check_ids(ids: Any, name: str, place: str, vocabulary: int) -> tuple[int, ...]:
    """Return token ids as a tuple.

    Raises:
        DataError: no list of whole numbers in [0, vocabulary).
    """
    if not isinstance(ids, list | tuple) or not all(type(token) is int for token in ids):
        raise DataError(f"{place}: {name} is {str(ids)[:60]}, expected a list of token ids; restore the file")
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        raise DataError(
            f"{place}: {name} has token ids from {min(ids)} to {max(ids)}, expected 0 to {vocabulary - 1}; these pairs "
            "were made with another tokenizer: give the policy that sampled them, or its pairs as text (.jsonl)"
        )
    return tuple(ids)
