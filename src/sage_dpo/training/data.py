"""The trainer's data sets: read as meant, tokenized by TRL; what TRL would cut is excluded whole and counted."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset

from sage_dpo.core.selection import candidate_count
from sage_dpo.data.preferences import PreferenceReader, exclusion
from sage_dpo.data.rates import plain_rates
from sage_dpo.data.tokens import TemplateCheck, end_token
from sage_dpo.errors import ConfigError, DataError, EmptyPoolError
from sage_dpo.rules import OVER_LONG, pair_exclusion
from sage_dpo.selection.dataset import TOKEN_COLUMNS, read_preferences, trainable_rows
from sage_dpo.training.config import SAGEConfig
from sage_dpo.training.stored_reference import COLUMNS

logger = get_logger(__name__)

Tokenize = Callable[[Any], Any]
"""TRL's preparation of a data set, without a limit of length."""


def map_style(dataset: Any, args: SAGEConfig, keep: int) -> Dataset:
    """Return the training data as SAGE needs it: rows that can be drawn by index, success rates in [0, 1].

    Of a stream the first rows are taken, as many as the run draws candidates, through a file and not in memory.

    Raises:
        DataError: no data, or of another kind.
        ConfigError: a stream of a run whose number of steps is not known.
    """
    if isinstance(dataset, IterableDataset):
        if args.max_steps <= 0:
            raise ConfigError(
                "train_dataset is a stream, and max_steps is not set, so that nothing says how much of it is needed; "
                "set max_steps, or load the data without streaming"
            )
        count = args.max_steps * candidate_count(keep, args.keep_ratio)
        dataset = _first_rows(dataset, count)
        logger.info(f"train_dataset is a stream: its first {len(dataset)} rows are the pool (max_steps x candidates)")
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"train_dataset is {'missing' if dataset is None else type(dataset).__name__}, expected a datasets.Dataset "
            "of preference pairs; pass train_dataset=load_dataset(..., split='train')"
        )
    return with_plain_rates(dataset, args.fields, "train_dataset")


def _first_rows(stream: IterableDataset, count: int) -> Dataset:
    folder = tempfile.mkdtemp(prefix="sage-dpo-stream-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if next(iter(stream), None) is None:
        return Dataset.from_list([])

    def rows() -> Iterator[Any]:
        yield from stream.take(count)

    return Dataset.from_generator(rows, features=stream.features, cache_dir=folder)


def with_plain_rates(dataset: Dataset, fields: Mapping[str, str | None] | None, name: str) -> Dataset:
    """Return the data with success rates in [0, 1], or without a column of that name that holds something else.

    One that `fields` names is left as it is: then it is an error.
    """
    if "success_rate" in (fields or {}) or "success_rate" not in dataset.column_names:
        return dataset
    values = list(dataset["success_rate"])
    rates = plain_rates(values)
    if rates == values:
        return dataset
    if rates is None:
        logger.warning(
            f"{name}: the column success_rate does not plainly hold rates (in [0, 1], or in percent) and is not read; "
            "say which column does: fields={'success_rate': 'COLUMN'}"
        )
        return dataset.remove_columns("success_rate")
    return dataset.remove_columns("success_rate").add_column("success_rate", rates)


class DataSets:
    """Prepares the training data, which comes first, and evaluation data.

    Args:
        args: of the trainer.

    Attributes:
        exclusions: pairs left out, by data set (`train`, `eval`, or `eval_<name>` of several) and reason.
    """

    def __init__(self, args: SAGEConfig) -> None:
        self._args = args
        self.exclusions: dict[str, dict[str, int]] = {}

    def prepare(self, dataset: Any, key: str, tokenizer: Any, tokenize: Tokenize) -> Any:
        """Return the pairs that can be used, tokenized.

        Args:
            dataset: map-style, or, for evaluation, streamed.
            key: TRL's: `train`, `eval`, or the key of one of several, which may be any.
            tokenizer: of the policy.
            tokenize: TRL's preparation.

        Raises:
            EmptyPoolError: no pair can be used.
            DataError, ConfigError: see `read_preferences`.
        """
        is_training = key == "train" and key not in self.exclusions
        name = "train_dataset" if is_training else "eval_dataset" if key == "eval" else f"eval_dataset[{key!r}]"
        if isinstance(dataset, IterableDataset):
            return self._stream(dataset, name, tokenizer, tokenize)
        if not is_training:
            dataset = _for_evaluation(dataset, name, self._args)
        args = self._args
        dataset, unread = read_preferences(
            dataset, tokenizer, args.fields, name, args.max_length, keeps_others=not args.remove_unused_columns
        )
        if not set(TOKEN_COLUMNS) <= set(dataset.column_names):
            dataset = tokenize(dataset)
        rows, unusable = trainable_rows(dataset, self._args.max_length, tokenizer, name)
        excluded = dict(Counter(unread) + Counter(unusable))
        self.exclusions[key if is_training or key == "eval" else f"eval_{key}"] = excluded
        if not rows:
            raise EmptyPoolError(f"no usable pair in {name}, excluded: {excluded}; {self._remedy(excluded)}")
        if excluded:
            hint = self._remedy(excluded)
            logger.warning(f"excluded from {name}: {excluded}; {len(rows)} pairs remain. {hint[0].upper()}{hint[1:]}.")
        selected: Dataset = dataset.select(rows) if unusable else dataset
        return selected

    def _remedy(self, excluded: dict[str, int]) -> str:
        if OVER_LONG in excluded:
            return f"for over-long pairs raise max_length (now {self._args.max_length})"
        return "check the data, and which columns are read (fields)"

    def _stream(self, dataset: IterableDataset, name: str, tokenizer: Any, tokenize: Tokenize) -> IterableDataset:
        """Prepare rows as they come; those that cannot be used are left out, uncounted."""
        first = next(iter(dataset), None)
        if first is None:
            raise EmptyPoolError(f"{name} has no rows, expected at least one preference pair")
        if not set(TOKEN_COLUMNS) <= set(first):
            columns = list(first)
            reader = PreferenceReader(columns, {**(self._args.fields or {}), "success_rate": ""}, name)
            check = TemplateCheck(tokenizer)

            def read(row: dict[str, Any], number: int) -> dict[str, Any]:
                result = reader.read(row, f"{name}[{number}]")
                if isinstance(result["chosen"], str):
                    end_token(tokenizer)
                elif exclusion(result) is None:
                    check(result, f"{name}[{number}]")
                return result

            dataset = dataset.map(read, with_indices=True, remove_columns=columns)
            dataset = tokenize(dataset.filter(lambda row: exclusion(row) is None))
        bounds = {"max_length": self._args.max_length, "eos_token_id": tokenizer.eos_token_id}
        return dataset.filter(lambda row: pair_exclusion(*(row[ids] for ids in TOKEN_COLUMNS), **bounds) is None)


def _for_evaluation(dataset: Dataset, name: str, args: SAGEConfig) -> Dataset:
    """Return evaluation data without what only training data is checked for: stored reference log-probabilities."""
    stored = [column for column in COLUMNS if column in dataset.column_names]
    return with_plain_rates(dataset.remove_columns(stored), args.fields, name)
