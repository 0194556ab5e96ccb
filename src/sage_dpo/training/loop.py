"""The seams of transformers' training loop: which pairs a step trains on, and with what weight.

The loop is timed by tickets, one per microbatch. A refresh changes how many pairs the pool holds; a loader over them
would change the length of the loop with it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sage_dpo.selection.microbatches import Microbatch
from sage_dpo.selection.stream import CandidateStream
from sage_dpo.training.checks import check_collated, check_loss
from sage_dpo.training.config import SAGEConfig
from sage_dpo.training.loader import steps_per_epoch, ticket_loader
from sage_dpo.training.weights import KEY, UNEVEN, uneven_gathers, weighted, weights_of

_EMPTY = "microbatch_is_empty"  # every pair of it was shut


class SelectingLoop(DPOTrainer):
    """TRL's trainer whose steps train on the pairs that `stream` chooses.

    Attributes:
        stream: the selection step.
    """

    args: SAGEConfig
    model: Any
    train_dataset: Dataset
    stream: CandidateStream
    _loop_asks = False

    @property
    def keep_count(self) -> int:
        """Pairs trained on per optimizer step, over all processes."""
        args = self.args
        return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * self.accelerator.num_processes)

    def log_metric(self, name: str, value: float) -> None:
        """Add a number to what is logged next; several between two logs are averaged."""
        self._metrics["train"][name].append(value)

    def _log_selection(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.log_metric(f"sage/{name}", value)

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._loop_asks = True  # the first loader that is asked for is the loop's
        return super()._inner_training_loop(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return batches of the training data, as TRL's; which pairs are trained on is chosen at each step.

        The loop gets tickets, one per microbatch: its clock does not depend on the pool's length.
        """
        if not self._loop_asks:
            loader: DataLoader[Any] = super().get_train_dataloader()
            return loader
        self._loop_asks = False
        args, pairs = self.args, len(self.train_dataset)
        steps = steps_per_epoch(
            pairs, keep=self.keep_count, keep_ratio=args.keep_ratio, drop_last=args.dataloader_drop_last
        )
        return ticket_loader(steps, args.gradient_accumulation_steps)

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """Return the loop's numbers; examples are pairs, of the data and trained on, not tickets."""
        epochs, steps, _, _, per_step, batches, max_steps = super().set_initial_training_values(args, dataloader)
        return epochs, steps, len(self.train_dataset), max_steps * per_step, per_step, batches, max_steps

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self.callback_handler.train_dataloader = self.get_train_dataloader()  # callbacks look at batches
        return prepared

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """Return the microbatches of one optimizer step: the kept pairs, grouped by length.

        None where all steps are done: transformers would take one more after a resume from the last one.
        """
        step = self.state.global_step
        if not list(itertools.islice(epoch_iterator, num_batches)) or step >= self.state.max_steps:
            return [], None
        batch = self.stream.next(step, progress=min(step / self.state.max_steps, 1.0), microbatches=num_batches)
        self._log_selection(batch.metrics)
        return [self._collate(batch.examples(microbatch), microbatch) for microbatch in batch.microbatches], None

    def _collate(self, examples: list[dict[str, Any]], microbatch: Microbatch) -> dict[str, Any]:
        if not examples:
            return {_EMPTY: True, "input_ids": torch.empty(0, 0, dtype=torch.long)}  # the loop counts its tokens
        if self.args.remove_unused_columns:
            self._set_signature_columns_if_needed()
            kept: set[str] = set(self._signature_columns or ())
            examples = [{name: value for name, value in example.items() if name in kept} for example in examples]
        inputs: dict[str, Any] = self.data_collator(examples)
        if type(self.data_collator) is not DataCollatorForPreference:
            check_collated(inputs, examples)
        return inputs | weights_of(microbatch, self.loss_types) | ({UNEVEN: True} if microbatch.is_uneven else {})

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run TRL's forward and backward pass; nothing for an empty microbatch. A loss that is not finite raises."""
        if _EMPTY in inputs:
            return torch.zeros((), device=self.args.device)
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        check_loss(loss, self.state.global_step)
        return loss

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute TRL's loss; evaluation batches that come without reference log-probabilities get TRL's own."""
        self.precompute_ref_logps = "ref_chosen_logps" in inputs
        if KEY not in inputs and UNEVEN not in inputs:
            return super().compute_loss(model, inputs, *args, **kwargs)
        gathers = uneven_gathers(self.accelerator) if UNEVEN in inputs else contextlib.nullcontext()
        with gathers, weighted(self, inputs) as (plain, weight):
            return weight * super().compute_loss(model, plain, *args, **kwargs)
