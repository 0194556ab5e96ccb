"""What `SAGETrainer` refuses before it starts, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from sage_dpo.errors import ConfigError, DataError, EmptyPoolError, NumericalError
from sage_dpo.selection.dataset import success_rate_column
from sage_dpo.selection.source import PairSource
from sage_dpo.training.config import SAGEConfig


def check_arguments(args: Any, train_dataset: Any, pair_source: PairSource | None) -> None:
    if not isinstance(args, SAGEConfig):
        raise ConfigError(
            f"args is a {type(args).__name__}, expected a SAGEConfig; replace {type(args).__name__}(...) by "
            "SAGEConfig(...), which takes the same arguments"
        )
    if not isinstance(train_dataset, Dataset):
        raise DataError(
            f"train_dataset is {type(train_dataset).__name__}, expected a map-style datasets.Dataset: SAGE draws "
            "candidates by index; load the data without streaming"
        )
    if {"image", "images"} & set(train_dataset.column_names):
        raise DataError("train_dataset has images; SAGE scores text only; use a text preference data set")
    if len(train_dataset) == 0:
        raise EmptyPoolError("train_dataset has no rows, expected at least one preference pair")
    is_estimated = pair_source is None and success_rate_column(train_dataset, args.fields) is None
    if args.stratified and args.schedule_by == "competence" and is_estimated:
        raise ConfigError(
            "schedule_by is competence, but success rates are estimated from ranks, whose mean is always 0.5; "
            "add a success_rate column, or set schedule_by to progress"
        )
    if pair_source is not None and args.precompute_ref_log_probs:
        raise ConfigError(
            "precompute_ref_log_probs is True, which drops the reference model, but pair_source makes new completions "
            "during training that need it; set precompute_ref_log_probs to False"
        )


def check_collated(inputs: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> None:
    """Raise where a collator of the user's trains on other tokens than those that were scored.

    Args:
        inputs: what the collator made: `input_ids`, `attention_mask` `[2 N, L]`, all chosen, then all rejected.
        examples: the N pairs it was given.
    """
    scored = [[*e["prompt_ids"], *e[column]] for column in ("chosen_ids", "rejected_ids") for e in examples]
    rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    trained = [ids[mask.bool()].tolist() for ids, mask in rows]
    changed = [i for i, row in enumerate(trained) if i >= len(scored) or row != scored[i]]
    if changed or len(trained) != len(scored):
        raise ConfigError(
            f"data_collator changes {len(changed)} of {len(trained)} completions (first: number "
            f"{min(changed, default=0)} of the batch), but SAGE scores prompt_ids, chosen_ids and rejected_ids as they "
            "are in the data set; change the data set, or leave data_collator out"
        )


def check_loss(loss: Tensor, step: int) -> None:
    """Raise `NumericalError` where a loss is NaN or infinite, whatever the selector scores."""
    if not torch.isfinite(loss):
        raise NumericalError(
            f"the loss is {loss.item()} at step {step}; lower the learning rate, or use bf16 or float32 in place of "
            "fp16"
        )
