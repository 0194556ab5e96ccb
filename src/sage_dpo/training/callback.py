"""When, between optimizer steps, the trainer starts, refreshes and stops its stream of candidates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from sage_dpo.selection.checkpoint import delete_older_checkpoints, mark_complete

if TYPE_CHECKING:
    from sage_dpo.training.trainer import SAGETrainer


class StreamCallback(TrainerCallback):
    """Starts the stream before the first step and refreshes it between steps, before a checkpoint is written."""

    def __init__(self, trainer: SAGETrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.start_stream()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not control.should_training_stop:  # after the last step nothing needs a new pool
            self._trainer.between_steps(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.accelerator.wait_for_everyone()  # every process has written its part
        if args.should_save:
            mark_complete(Path(args.output_dir, f"checkpoint-{state.global_step}"))
        if args.should_save and args.save_total_limit:
            best = state.best_model_checkpoint
            delete_older_checkpoints(args.output_dir, step=state.global_step, keep=args.save_total_limit, best=best)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.stream.log.flush()
