"""What `SAGETrainer` refuses before it starts, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import Tensor

from sage_dpo.errors import ConfigError, DataError, EmptyPoolError, NumericalError
from sage_dpo.selection.dataset import success_rate_column
from sage_dpo.selection.source import PairSource
from sage_dpo.training.config import SAGEConfig

logger = get_logger(__name__)


_WITHOUT_EFFECT = {
    "dataloader_num_workers": "a step's pairs are taken from memory",
    "dataloader_prefetch_factor": "a step's pairs are taken from memory",
    "dataloader_persistent_workers": "a step's pairs are taken from memory",
    "dataloader_multiprocessing_context": "a step's pairs are taken from memory",
    "train_sampling_strategy": "the pairs of every step are grouped by length as they are",
    "length_column_name": "lengths are counted",
    "precompute_ref_batch_size": "score_token_budget bounds the reference's passes",
    "ignore_data_skip": "a resumed run goes on with the pairs that come next",
}
"""Arguments that change nothing about training with SAGE, and why; some do about evaluation."""

_SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}
"""The losses in which TRL 1.16 reads `label_smoothing`; `sigmoid` was one of them in older releases."""


def check_arguments(args: Any, train_dataset: Any, pair_source: PairSource | None) -> None:
    """Check arguments and, once it is map-style (`data.map_style`), the training data."""
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


def check_config(args: Any) -> None:
    """Check what kind of arguments there are; say once which of them change nothing about training."""
    if not isinstance(args, SAGEConfig):
        raise ConfigError(
            f"args is a {type(args).__name__}, expected a SAGEConfig; replace {type(args).__name__}(...) by "
            "SAGEConfig(...), which takes the same arguments"
        )
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    unused = {name: why for name, why in _WITHOUT_EFFECT.items() if getattr(args, name) != defaults[name]}
    if args.label_smoothing and not _SMOOTHED & set(args.loss_type):
        unused["label_smoothing"] = f"TRL reads it with loss_type {sorted(_SMOOTHED)} only"
    if unused:
        reasons = "; ".join(f"{name}: {why}" for name, why in unused.items())
        logger.warning(f"without effect on training: {reasons}")


def check_quantization(model: Any, args: SAGEConfig, config: Any) -> None:
    """Refuse a quantized policy (QLoRA) on a CPU.

    Args:
        model: as it was given to the trainer.
        args: of the trainer.
        config: `quantization_config` of the trainer.
    """
    given = args.model_init_kwargs.get("quantization_config") if isinstance(args.model_init_kwargs, dict) else None
    if isinstance(given, Mapping):
        bits = [given.get("load_in_4bit"), given.get("load_in_8bit")]
    else:
        source = given if config is None else config
        bits = [getattr(source, "load_in_4bit", False), getattr(source, "load_in_8bit", False)]
    loaded = [getattr(model, f"is_loaded_in_{number}bit", False) for number in (4, 8)]
    if args.device.type == "cpu" and any([*bits, *loaded]):
        raise ConfigError(
            "quantization_config loads the policy in 4 or 8 bits (QLoRA), which is trained on a GPU only, but this run "
            "is on a CPU; leave quantization_config out, or use a GPU"
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
