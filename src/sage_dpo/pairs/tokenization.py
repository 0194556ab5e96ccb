"""Preference rows -> pairs with token ids: those of TRL's `DPOTrainer` on the same rows (a test compares them), except
that nothing is cut: over-long pairs are excluded and counted.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from sage_dpo.data.preferences import TOKENS, exclusion
from sage_dpo.data.tokens import TemplateCheck, TextBound, check_ids, doubled_marks, end_token
from sage_dpo.errors import EmptyPoolError
from sage_dpo.pairs.build import PairBuild
from sage_dpo.pairs.preference_data import PreferenceData, load_preference_data
from sage_dpo.records import PreferencePair
from sage_dpo.rules import OVER_LONG, pair_exclusion

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_logger = logging.getLogger(__name__)

_PROVENANCE = ("id", "problem_id", "success_rate", "chosen_sample", "rejected_sample", "policy_version")


def tokenize_preferences(
    data: PreferenceData | Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    progress: bool = False,
) -> PairBuild:
    """Tokenise preference rows the way TRL's `DPOTrainer` does.

    Text completions get the end-of-sequence token, messages get what the chat template writes. The completion starts
    where the tokenised prompt and prompt + completion part. Without a prompt the common beginning of two texts serves
    (`trl.extract_prompt`). Rows of token ids are taken as they are. Beside the texts, rows may have `success_rate` in
    [0, 1], `problem_id` or `id` (default: rows of equal prompts share one), `tools`, `chat_template_kwargs`.

    Args:
        data: of `load_preference_data`, or a `Dataset` that it takes.
        tokenizer: of the policy.
        max_length: longest prompt + completion in tokens; `None` sets no bound.
        progress: show a progress bar.

    Returns:
        Pairs with `id = row-<number>`, and counts of excluded rows by reason.

    Raises:
        ConfigError: the tokenizer lacks an end token or a chat template, or its template drops what the rows hold.
        DataError: token ids that are not this tokenizer's.
        EmptyPoolError: every row is excluded; the message says why.
    """
    data = data if isinstance(data, PreferenceData) else load_preference_data(data)
    tokenized = PairTokenizer(tokenizer, max_length)
    counts: Counter[str] = Counter()
    pairs = []
    for number in tqdm(range(len(data)), desc="tokenizing pairs", unit="row", disable=not progress):
        result = tokenized.pair(number, data[number], data.places[number], is_text=data.reader is not None)
        if isinstance(result, str):
            counts[result] += 1
        else:
            pairs.append(result)
    tokenized.report_marks(len(pairs))
    exclusions = dict(sorted(counts.items()))
    if not pairs:
        raise EmptyPoolError(f"{data.name} holds no usable pair, excluded: {exclusions}; check the data", exclusions)
    return PairBuild(pairs, exclusions, {"rows": len(data), "pairs": len(pairs)})


class PairTokenizer:
    """Tokenizes one row after another; arguments and errors as for `tokenize_preferences`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        self._check, self._bound = TemplateCheck(tokenizer), TextBound(tokenizer, max_length)
        self._marks: Counter[str] = Counter()

    def pair(self, number: int, row: Mapping[str, Any], place: str, *, is_text: bool) -> PreferencePair | str:
        """Return the pair of a row, or the reason why it has none.

        Args:
            number: of the row, from 0; its id where it has none.
            row: as `PreferenceData` gives it.
            place: what a message calls it.
            is_text: whether the row holds texts or messages, not token ids.
        """
        if is_text:
            result = _pair_of_row(
                number, row, place, self._tokenizer, self._max_length, check=self._check, bound=self._bound
            )
        else:
            result = _pair_of_ids(number, row, place, self._tokenizer, self._max_length)
        if not isinstance(result, str):
            self._marks.update(
                doubled_marks(self._tokenizer, result.prompt_ids, result.chosen_ids, result.rejected_ids)
            )
        return result

    def report_marks(self, pairs: int) -> None:
        """Say how many of so many pairs have a begin or end token twice."""
        for mark, count in self._marks.items():
            _logger.warning(f"{count} of {pairs} pairs have {mark}; the text and the tokenizer both write it")


def _pair_of_ids(
    number: int, row: Mapping[str, Any], place: str, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> PreferencePair | str:
    """Return the pair of a row of token ids, as `sage-dpo pairs` writes them, or the reason why it has none."""
    ids = {name: check_ids(row[name], name, place, len(tokenizer)) for name in TOKENS}
    reason = pair_exclusion(*ids.values(), max_length=max_length, eos_token_id=tokenizer.eos_token_id)
    if reason is not None:
        return reason
    given = {name: row[name] for name in _PROVENANCE if row.get(name) is not None}
    decode: Callable[[Any], Any] = partial(tokenizer.decode, skip_special_tokens=True)
    for name in ("prompt", "chosen", "rejected"):
        if not isinstance(row.get(name), str):
            given[name] = decode(list(ids[f"{name}_ids"]))
        else:
            given[name] = row[name]
    defaults = {"id": f"row-{number}", "problem_id": f"prompt-{_digest(list(ids['prompt_ids']))}"}
    return PreferencePair(**{**defaults, **given, **ids})


def _pair_of_row(
    number: int,
    row: Mapping[str, Any],
    place: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    *,
    check: TemplateCheck,
    bound: TextBound,
) -> PreferencePair | str:
    """Return the row's pair, or the reason why it has none."""
    from trl import extract_prompt

    reason = exclusion(row)
    if reason is not None:
        return reason
    parts: Mapping[str, Any] = row if "prompt" in row else extract_prompt(dict(row))
    if reason := exclusion(parts):
        return reason
    if bound.is_exceeded(parts):
        return OVER_LONG
    if isinstance(parts["chosen"], list):
        check(parts, place)
    prompt_ids, chosen_ids, rejected_ids = _tokenize(parts, tokenizer)
    reason = pair_exclusion(
        prompt_ids, chosen_ids, rejected_ids, max_length=max_length, eos_token_id=tokenizer.eos_token_id
    )
    if reason is not None:
        return reason
    decode: Callable[[Any], Any] = partial(tokenizer.decode, skip_special_tokens=True)
    problem_id = next((row[name] for name in ("problem_id", "id") if row.get(name) is not None), None)
    return PreferencePair(
        id=f"row-{number}",
        problem_id=str(problem_id) if problem_id is not None else f"prompt-{_digest(prompt_ids)}",
        prompt_ids=tuple(prompt_ids),
        chosen_ids=tuple(chosen_ids),
        rejected_ids=tuple(rejected_ids),
        prompt=decode(prompt_ids),
        chosen=decode(chosen_ids),
        rejected=decode(rejected_ids),
        success_rate=row.get("success_rate"),
    )


def _tokenize(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int], list[int]]:
    """Return prompt, chosen and rejected ids as `DPOTrainer._prepare_dataset` of TRL 1.16 does."""
    from trl.data_utils import common_prefix_length

    prompt, chosen, rejected = (row[name] for name in ("prompt", "chosen", "rejected"))
    prompt_ids: Any
    whole: list[Any]
    if isinstance(chosen, list):
        tools = row.get("tools")
        arguments = {
            "tools": json.loads(tools) if isinstance(tools, str) else tools,
            **(row.get("chat_template_kwargs") or {}),
            "return_dict": True,
        }
        template: Any = tokenizer.apply_chat_template
        prompt_ids = template(prompt, add_generation_prompt=True, **arguments)["input_ids"]
        whole = [template(prompt + side, **arguments)["input_ids"] for side in (chosen, rejected)]
    else:
        eos = end_token(tokenizer)
        prompt_ids = tokenizer(text=prompt)["input_ids"]
        whole = [
            tokenizer(text=prompt + (side if side.endswith(eos) else side + eos))["input_ids"]
            for side in (chosen, rejected)
        ]
    start = min(common_prefix_length(prompt_ids, ids) for ids in whole)
    return prompt_ids[:start], whole[0][start:], whole[1][start:]


def _digest(ids: list[int]) -> str:
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:12]


def preference_rows(
    pairs: Sequence[PreferencePair], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[dict[str, Any]], int]:
    """Return pairs as rows of TRL's preference format, as text, and how many become other tokens when read again.

    The text is what the policy saw and wrote, special tokens, system prompt and template included, so that nothing
    is to be put around it again.
    """
    rows, changed = [], 0
    for pair in pairs:
        prompt, chosen = _texts(pair.prompt_ids, pair.chosen_ids, tokenizer)
        row = {"prompt": prompt, "chosen": chosen, "rejected": _texts(pair.prompt_ids, pair.rejected_ids, tokenizer)[1]}
        again = tuple(map(tuple, _tokenize(row, tokenizer)))
        changed += again != (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)
        rows.append({"id": pair.id, "problem_id": pair.problem_id, **row, "success_rate": pair.success_rate})
    return rows, changed


def _texts(
    prompt_ids: tuple[int, ...], completion_ids: tuple[int, ...], tokenizer: PreTrainedTokenizerBase
) -> tuple[str, str]:
    """Return prompt and completion as text; the completion as it reads behind the prompt, its first blank included."""
    begin = tokenizer.bos_token_id
    if begin is not None and prompt_ids[:1] == (begin,) and tokenizer(text="")["input_ids"][:1] == [begin]:
        prompt_ids = prompt_ids[1:]  # the tokenizer writes it by itself
    decode: Callable[[Any], Any] = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    prompt, whole = decode(list(prompt_ids)), decode([*prompt_ids, *completion_ids])
    return prompt, whole.removeprefix(prompt) if whole.startswith(prompt) else decode(list(completion_ids))
