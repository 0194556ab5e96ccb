"""The trainer's data sets: read as meant, tokenized by TRL; what TRL would cut is excluded whole and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset

from sage_dpo.data.preferences import PreferenceReader, exclusion
from sage_dpo.data.tokens import TemplateCheck, end_token
from sage_dpo.errors import EmptyPoolError
from sage_dpo.rules import OVER_LONG, pair_exclusion
from sage_dpo.selection.dataset import TOKEN_COLUMNS, read_preferences, trainable_rows
from sage_dpo.training.config import SAGEConfig

logger = get_logger(__name__)

Tokenize = Callable[[Any], Any]
"""TRL's preparation of a data set, without a limit of length."""


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
        dataset, unread = read_preferences(dataset, tokenizer, self._args.fields, name, self._args.max_length)
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
            reader, check = PreferenceReader(columns, self._args.fields, name), TemplateCheck(tokenizer)

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
