"""What a resumed training must know beside the stream's state: on what it depends, and what TRL and transformers count
and do not save.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from sage_dpo.inputs import accept_changes, library_versions
from sage_dpo.selection.dataset import TOKEN_COLUMNS

if TYPE_CHECKING:
    from sage_dpo.training.trainer import SAGETrainer

SAFE_ARGUMENTS = (
    "output_dir", "run_name", "project", "trackio_", "report_to", "logging_", "log_", "disable_tqdm", "save_", "eval_",
    "per_device_eval_batch_size", "do_", "hub_", "push_to_hub", "resume_from_checkpoint", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataset_num_proc", "ddp_timeout", "local_rank",
    "debug", "include_", "skip_memory_metrics", "torch_empty_cache_steps", "enable_jit_checkpoint", "accept_changes",
)  # fmt: skip
"""Beginnings of the names of arguments that change no step of training: a resumed one may have others."""


class ResumeState:
    """A trainer's part of the state in a checkpoint.

    Args:
        trainer: already initialized; its arguments are taken down as they are now.
    """

    def __init__(self, trainer: SAGETrainer) -> None:
        self._trainer = trainer
        values: Mapping[str, Any] = trainer.args.to_dict()
        text = json.dumps(values, default=lambda value: type(value).__name__, sort_keys=True)
        self._arguments = {k: v for k, v in json.loads(text).items() if not k.startswith(SAFE_ARGUMENTS)}

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """What the steps depend on: versions, machine, processes, arguments, the pairs of the data set."""
        trainer = self._trainer
        device = trainer.args.device
        return {
            "versions": library_versions(),
            "machine": {
                "device": device_name(device),
                "threads": torch.get_num_threads() if device.type == "cpu" else None,
                "processes": trainer.accelerator.num_processes,
            },
            "data": {"rows": len(trainer.train_dataset), "sha256": rows_sha256(trainer.train_dataset)},
            "args": self._arguments,
        }

    def state(self) -> dict[str, Any]:
        """Return the inputs, TRL's count of tokens, the sum of the logged losses, that of the steps since, and the last
        step logged. Call it on every process.
        """
        trainer = self._trainer
        pending = trainer.accelerator.gather(trainer._tr_loss.reshape(1)).mean()
        loss = {
            "total": float(trainer._total_loss_scalar),
            "pending": float(pending),
            "last_logged": int(trainer._globalstep_last_logged),
        }
        return {"inputs": self.inputs, "trl_tokens": trainer._total_train_tokens, "loss": loss}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; transformers begins to count at 0 in every attempt.

        Raises:
            RunFolderError: an input differs that was not declared safe.
        """
        trainer = self._trainer
        accept_changes(
            state["inputs"],
            self.inputs,
            trainer.args.accept_changes or (),
            what=f"checkpoint {trainer._resume_path}",
            how="SAGEConfig(accept_changes='{names}'.split(','))",
        )
        trainer._total_train_tokens = state["trl_tokens"]
        trainer._total_loss_scalar = state["loss"]["total"]
        trainer._tr_loss.fill_(state["loss"]["pending"])
        trainer._globalstep_last_logged = state["loss"]["last_logged"]


def device_name(device: torch.device) -> str:
    """Return a device's own name, or its kind where it has none (CPU, Apple's MPS)."""
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return device.type if name is None else str(name(device))


def rows_sha256(dataset: Dataset) -> str:
    """Return a hash of the token ids of all pairs, in order; how they are stored does not count."""
    digest = hashlib.sha256()
    for table in dataset.select_columns(list(TOKEN_COLUMNS)).with_format("arrow").iter(batch_size=1024):
        for name in TOKEN_COLUMNS:
            rows: Any = pa.Table.column(table, name).combine_chunks()
            for numbers in (rows.value_lengths(), rows.flatten()):
                digest.update(numbers.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
    return digest.hexdigest()
