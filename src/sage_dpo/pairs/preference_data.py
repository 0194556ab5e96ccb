"""Preference data sets in TRL's formats become the same `PreferencePair` records that sampling gives.

Token ids are those of TRL's `DPOTrainer` on the same rows (a test compares them), except that nothing is cut:
over-long pairs are excluded and counted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from sage_dpo.errors import DataError
from sage_dpo.pairs.build import PairBuild
from sage_dpo.records import PreferencePair
from sage_dpo.rules import EMPTY, EQUAL, pair_exclusion
from sage_dpo.storage import numbered_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_FILE_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def load_preference_data(
    source: str | Path | Dataset, *, split: str = "train", revision: str | None = None, limit: int | None = None
) -> Dataset:
    """Load a preference data set.

    Args:
        source: a `Dataset`, a JSONL or Parquet file, a folder saved with `save_to_disk`, or a hub id.
        split: of a saved `DatasetDict` or a hub data set.
        revision: hub commit.
        limit: the first so many rows only.

    Raises:
        DataError: nothing readable there, no such split, no row, or `chosen` or `rejected` missing.
    """
    from datasets import Dataset

    dataset = source if isinstance(source, Dataset) else _load(str(source), split, revision)
    missing = sorted({"chosen", "rejected"} - set(dataset.column_names))
    if missing:
        raise DataError(
            f"preference data lacks the columns {missing}; it has {dataset.column_names}, expected chosen, rejected "
            "and optionally prompt (rename with Dataset.rename_column)"
        )
    if len(dataset) == 0:
        raise DataError("preference data has no rows; check the path and the split")
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


def preference_rows(pairs: Sequence[PreferencePair]) -> list[dict[str, Any]]:
    """Return pairs as rows of TRL's conversational preference format, with `id` and `success_rate` beside it."""
    return [
        {
            "id": pair.id,
            "prompt": [{"role": "user", "content": pair.prompt}],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "success_rate": pair.success_rate,
        }
        for pair in pairs
    ]


def _load(source: str, split: str, revision: str | None) -> Dataset:
    from datasets import DatasetDict, load_dataset, load_from_disk
    from datasets.exceptions import DatasetGenerationError

    path = Path(source)
    reader = _FILE_READERS.get(path.suffix)
    if not path.exists() and (reader or path.is_absolute()):
        raise DataError(f"preference data {source!r} does not exist; give a file, a saved folder, or a hub id")
    try:
        if path.is_dir() and any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
            loaded = load_from_disk(source)
            if isinstance(loaded, DatasetDict):
                if split not in loaded:
                    raise DataError(f"{source!r} has the splits {sorted(loaded)}, not {split!r}; set pairs.split")
                return loaded[split]
            return loaded
        if path.is_file():
            if reader is None:
                raise DataError(f"preference data {source!r} ends in {path.suffix!r}, expected .jsonl or .parquet")
            if path.suffix == ".jsonl" and not sum(1 for _ in numbered_rows(path)):  # `datasets` names no line
                raise DataError(f"preference data {source!r} has no rows; give a file with one pair a line")
            return load_dataset(reader, data_files=source, split="train")
        return load_dataset(source, split=split, revision=revision)
    except (DatasetGenerationError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        cause = error.__cause__ or error
        raise DataError(f"preference data {source!r} (split {split!r}) cannot be read: {cause}") from error


def tokenize_preferences(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None = None, progress: bool = False
) -> PairBuild:
    """Tokenise preference rows the way TRL's `DPOTrainer` does.

    Columns: `prompt` (optional), `chosen`, `rejected`, as text or as messages; without `prompt` the common beginning
    of chosen and rejected serves (`trl.extract_prompt`). Text completions get the end-of-sequence token, messages get
    what the chat template writes. The completion starts where the tokenised prompt and prompt + completion part.
    Optional: `success_rate` in [0, 1], `problem_id` or `id` (default: rows of equal prompts share one), `tools`,
    `chat_template_kwargs`.

    Args:
        dataset: of `load_preference_data`.
        tokenizer: of the policy.
        max_length: longest prompt + completion in tokens; `None` sets no bound.
        progress: show a progress bar.

    Returns:
        Pairs with `id = row-<number>`, and counts of excluded rows by reason.

    Raises:
        DataError: a row lacks a field or has one of the wrong type; says which row.
    """
    counts: Counter[str] = Counter()
    pairs = []
    for number, row in enumerate(tqdm(dataset, desc="tokenizing pairs", unit="row", disable=not progress)):
        result = _pair_of_row(number, _checked(number, row), tokenizer, max_length)
        if isinstance(result, str):
            counts[result] += 1
        else:
            pairs.append(result)
    return PairBuild(pairs, dict(sorted(counts.items())), {"rows": len(dataset), "pairs": len(pairs)})


def _checked(number: int, row: Mapping[str, Any]) -> Mapping[str, Any]:
    names = ("prompt", "chosen", "rejected") if "prompt" in row else ("chosen", "rejected")
    for name in names:
        value = row[name]
        is_conversation = isinstance(value, list) and all(
            isinstance(message, dict) and {"role", "content"} <= set(message) for message in value
        )
        if not isinstance(value, str) and not is_conversation:
            raise DataError(
                f"row {number}: {name!r} is {str(value)[:80]!r}, expected text or a list of messages with role and "
                "content; fix or remove this row"
            )
    if len({isinstance(row[name], str) for name in names}) > 1:
        raise DataError(f"row {number}: {', '.join(names)} mix text and messages; give all of them in one format")
    rate = row.get("success_rate")
    if rate is not None and not (isinstance(rate, int | float) and 0.0 <= rate <= 1.0):
        raise DataError(f"row {number}: success_rate is {rate!r}, expected a number in [0, 1] or nothing")
    return row


def _pair_of_row(
    number: int, row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> PreferencePair | str:
    """Return the row's pair, or the reason why it has none."""
    from trl import extract_prompt

    if row["chosen"] == row["rejected"]:
        return EQUAL
    if not row["chosen"] or not row["rejected"]:
        return EMPTY
    parts: Mapping[str, Any] = row if "prompt" in row else extract_prompt(dict(row))
    if any(_is_blank(parts[name]) for name in ("chosen", "rejected")):
        return EMPTY
    prompt_ids, chosen_ids, rejected_ids = _tokenize(parts, row, tokenizer)
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
        success_rate=None if row.get("success_rate") is None else float(row["success_rate"]),
    )


def _tokenize(
    parts: Mapping[str, Any], row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int], list[int]]:
    """Return prompt, chosen and rejected ids as `DPOTrainer._prepare_dataset` of TRL 1.16 does."""
    from trl.data_utils import common_prefix_length, is_conversational

    prompt, chosen, rejected = (parts[name] for name in ("prompt", "chosen", "rejected"))
    prompt_ids: Any
    whole: list[Any]
    if is_conversational({"prompt": prompt}) or is_conversational({"chosen": chosen}):
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
        eos = tokenizer.eos_token
        prompt_ids = tokenizer(text=prompt)["input_ids"]
        whole = [
            tokenizer(text=prompt + (side if side.endswith(eos) else side + eos))["input_ids"]
            for side in (chosen, rejected)
        ]
    start = min(common_prefix_length(prompt_ids, ids) for ids in whole)
    return prompt_ids[:start], whole[0][start:], whole[1][start:]


def _is_blank(completion: str | list[dict[str, Any]]) -> bool:
    if isinstance(completion, str):
        return not completion.strip()
    return not any(str(message.get("content") or "").strip() or message.get("tool_calls") for message in completion)


def _digest(ids: list[int]) -> str:
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:12]
