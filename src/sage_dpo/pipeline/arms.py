"""Training one arm of a comparison: its configuration, its trainer, its files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback

from sage_dpo.config import RunConfig
from sage_dpo.errors import ConfigError
from sage_dpo.pipeline.clock import Clock, Evaluate, Probe
from sage_dpo.pipeline.on_policy import OnPolicySource
from sage_dpo.pipeline.policies import lora_config, model_arguments, policy_path
from sage_dpo.pipeline.whole_policy import WholePolicy, WholePolicySource
from sage_dpo.processes import ONE, Processes, share_evenly
from sage_dpo.records import PairScore
from sage_dpo.run_folder import ArmFolder
from sage_dpo.selection.checkpoint import last_complete_checkpoint
from sage_dpo.selection.log import read_candidates
from sage_dpo.storage import write_jsonl, write_records
from sage_dpo.training import SAGEConfig, SAGETrainer

_PER_PROCESS = ("args.per_device_train_batch_size", "args.gradient_accumulation_steps")
"""What follows from the number of processes."""


def train_arm(
    config: RunConfig,
    folder: ArmFolder,
    pairs: Dataset,
    tokenizer: Any,
    *,
    source: OnPolicySource | None,
    probe: Probe | None,
    probe_at_start: float | None,
    competence: float | None,
    evaluate: Evaluate | None = None,
    accepted: Sequence[str] = (),
    progress: bool = True,
    processes: Processes = ONE,
) -> dict[str, Any]:
    """Train one arm, continuing from its last complete checkpoint, and save policy, metrics and scores.

    Args:
        config: the arm's own configuration (`RunConfig.for_arm`).
        folder: the arm's folder.
        pairs: pool version 0, tokenized or in TRL's preference format.
        tokenizer: the policy's.
        source: makes the pool of each refresh; `None` for a fixed pool.
        probe, probe_at_start: accuracy on the probe problems, and that of the untrained policy.
        competence: sampled success rate of the untrained policy over all problems, if it was measured.
        evaluate: runs the suites after `evaluation.at_steps`.
        accepted: what may differ from the checkpoint, see `SAGEConfig.accept_changes`.
        progress: show progress bars.
        processes: that train together; each of them calls this, and the main one writes.

    Returns:
        `costs` without those of the first pool, `exclusions`, numbers of parameters, kept pairs, refreshes and steps
        taken, `stop_reason` where training ended by itself, and `best`, the best probe (`BestProbe.found`).
    """
    arguments = trainer_arguments(config, folder.checkpoints, progress=progress, processes=processes.count)
    arguments.accept_changes = [*accepted, *(_PER_PROCESS if {"machine", "machine.processes"} & set(accepted) else ())]
    trainer = _trainer(config, arguments, folder.name, pairs, tokenizer, source, competence)
    whole = WholePolicy(trainer, config.policy, folder.whole_policy, processes)
    trainer.stream.source = source and WholePolicySource(source, whole)
    probe, evaluate = probe and whole.given(probe), evaluate and whole.given(evaluate)
    checkpoint = processes.on_main(lambda: last_complete_checkpoint(folder.checkpoints))
    clock = Clock(trainer, config, folder, probe, evaluate, checkpoint, processes.is_main)
    # Before the trainer's own: a refresh after this step is for later steps, and no cost of what is measured now.
    trainer.callback_handler.callbacks.insert(0, clock)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(folder.policy))
    if processes.is_main:
        tokenizer.save_pretrained(folder.policy)
        start = [] if probe_at_start is None else [{"step": 0, "probe/accuracy": probe_at_start}]
        write_jsonl(folder.metrics, start + trainer.state.log_history)
        _write_scores(folder)
    outcome = _outcome(trainer, clock)
    let_go(trainer)
    return outcome


def _outcome(trainer: SAGETrainer, clock: Clock) -> dict[str, Any]:
    """Return what `train_arm` does."""
    return {
        "best": clock.best.found,
        "costs": clock.costs().as_dict(),
        "exclusions": trainer.exclusions.get("train", {}),
        "keep_count": trainer.keep_count,
        "parameters": clock.parameters,
        "refreshes": trainer.stream.pool.version,
        "steps": trainer.state.global_step,
        "stop_reason": trainer.stop_reason,
    }


def let_go(trainer: SAGETrainer) -> None:
    """Free what DeepSpeed keeps of a training beside the next arm's, but for a part of ZeRO-3's (docs/scaling.md)."""
    reference: Any = trainer.ref_model
    if trainer.is_deepspeed_enabled and reference is not None:
        reference.destroy()
    trainer.accelerator.free_memory()


def _trainer(
    config: RunConfig,
    arguments: SAGEConfig,
    name: str,
    pairs: Dataset,
    tokenizer: Any,
    source: OnPolicySource | None,
    competence: float | None,
) -> SAGETrainer:
    """Return the trainer of the arm `name`, whose progress bar says which arm it is; see `train_arm`."""
    trainer = SAGETrainer(
        policy_path(config.policy.path),
        args=arguments,
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=lora_config(config.policy.lora),
        pair_source=source,
        competence=competence,
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(_Progress(name))
    return trainer


def trainer_arguments(config: RunConfig, output_dir: Path, *, progress: bool, processes: int = 1) -> SAGEConfig:
    """Return the trainer's arguments for an arm, on each of so many processes.

    Raises:
        ConfigError: unknown key in `training.trainer`, or sizes that do not fit together.
    """
    training = config.training
    pairs = share_evenly("training.pairs_per_step", training.pairs_per_step, processes)
    microbatch, accumulation = _microbatches(pairs, training.microbatch_size)
    is_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    arguments: dict[str, Any] = {
        "output_dir": str(output_dir),
        "seed": config.seed,
        "max_steps": training.steps,
        "per_device_train_batch_size": microbatch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": training.learning_rate,
        "beta": training.beta,
        "max_length": training.max_length,
        "score_token_budget": training.score_token_budget,
        "score_max_age": training.score_max_age,
        "bf16": is_bf16,
        "save_strategy": "steps" if training.save_steps else "no",
        "save_steps": training.save_steps or 500,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": not progress,
        "model_init_kwargs": model_arguments(config.policy),
        **config.selection.model_dump(),
        **config.pool.model_dump(),
    }
    adjustable = ("bf16", "report_to", "save_total_limit")
    unknown = sorted(set(training.trainer) - set(SAGEConfig.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"training.trainer has unknown keys {unknown}; they must be fields of TRL's DPOConfig or transformers' "
            "TrainingArguments"
        )
    taken = sorted(set(training.trainer) & (set(arguments) - set(adjustable)))
    if taken:
        raise ConfigError(f"training.trainer sets {taken}, which have a place of their own in the recipe; move them")
    with warnings.catch_warnings():  # transformers 5.23 renames the field that TRL 1.16 declares
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing. is deprecated")
        return SAGEConfig(**{**arguments, **training.trainer})


def _microbatches(pairs: int, largest: int) -> tuple[int, int]:
    """Return (pairs per microbatch, microbatches) whose product is `pairs`, the fewest microbatches there can be."""
    accumulation = next(n for n in range(1, pairs + 1) if pairs % n == 0 and pairs // n <= largest)
    return pairs // accumulation, accumulation


def _write_scores(folder: ArmFolder) -> None:
    """Copy the candidate log into the refresh folders it belongs to."""
    scores = read_candidates(folder.candidates)
    for version in sorted({score.pool_version for score in scores}):
        rows = [score for score in scores if score.pool_version == version]
        write_records(folder.refresh(version).scores, rows, PairScore)


class _Progress(ProgressCallback):
    """transformers' progress bar, with the numbers beside it in place of a printed dictionary per step."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(f"training {self._label}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            probe = {"probe": f"{100 * logs['probe/accuracy']:.0f} %"} if "probe/accuracy" in logs else {}
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}", **probe)
