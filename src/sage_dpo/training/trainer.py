"""`SAGETrainer`: TRL's `DPOTrainer` that chooses, at every optimizer step, which pairs it trains on.

The choice is `sage_dpo.selection.CandidateStream`; the loss, the optimizer, LoRA, mixed precision, trackers and
distributed wrappers are TRL's and transformers' own. This file is the seams between the two; the traps behind each are
listed in docs/architecture.md.
"""

from __future__ import annotations

import copy
import inspect
import os
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset
from trl import DPOTrainer

from sage_dpo.forward.training_rows import remove_padding
from sage_dpo.selection.checkpoint import checkpoint_to_resume, load_state, mark_incomplete, save_state
from sage_dpo.selection.log import CandidateLog
from sage_dpo.selection.scoring import TokenCounts
from sage_dpo.selection.source import PairSource
from sage_dpo.selection.stream import CandidateStream
from sage_dpo.training.callback import StreamCallback
from sage_dpo.training.card import PAPER
from sage_dpo.training.checks import check_arguments, check_config, check_quantization
from sage_dpo.training.config import SAGEConfig, default_output_dir
from sage_dpo.training.data import DataSets, map_style
from sage_dpo.training.loop import SelectingLoop
from sage_dpo.training.models import TrainerModels
from sage_dpo.training.moving_reference import ReferenceHandler, check_moving, load_moved, save_moved
from sage_dpo.training.resume import ResumeState
from sage_dpo.training.sharding import ShardedScorer
from sage_dpo.training.stored_reference import use_stored_reference

logger = get_logger(__name__)


class SAGETrainer(SelectingLoop):
    """Drop-in replacement for `trl.DPOTrainer`.

    Args:
        model, ref_model, data_collator, train_dataset, eval_dataset, processing_class, peft_config, ...: as in TRL.
            `train_dataset` is text; of a stream the first rows are taken, `max_steps x` candidates. An optional column
            `success_rate` gives each pair's difficulty, else it is estimated from the policy's margins. Tokens
            (`prompt_ids`, `chosen_ids`, `rejected_ids`) are taken as they are. docs/trl.md lists every argument.
        args: a `SAGEConfig`.
        pair_source: makes new pairs with the current policy every `args.refresh_steps` steps.
        competence: success rate of the untrained policy over all problems asked; default is the mean over pairs.

    Attributes:
        stream: the selection step: pool, scores, reference log-probabilities, counts and log.
        is_sharded: whether the policy's weights are spread over the processes (FSDP, ZeRO-3).
        stop_reason: why training stopped by itself before its last step, if it did.

    Raises:
        ConfigError, DataError, EmptyPoolError: before training starts, with the remedy in the message.
        NumericalError: a log-probability is NaN or infinite; names the pairs.
    """

    _tag_names = ["trl", "dpo", "sage"]  # noqa: RUF012 - TRL declares it so
    _name = "SAGE"
    _paper = PAPER

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: SAGEConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        *positional: Any,
        pair_source: PairSource | None = None,
        competence: float | None = None,
        **keywords: Any,
    ) -> None:
        args = SAGEConfig(default_output_dir(model)) if args is None else args
        check_config(args)
        bound = inspect.signature(DPOTrainer).bind_partial(model, ref_model, args, None, None, *positional, **keywords)
        check_quantization(model, args, bound.arguments.get("quantization_config"))
        keep = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        train_dataset = map_style(train_dataset, args, keep)
        check_arguments(args, train_dataset, pair_source)
        self._data = DataSets(args)
        super().__init__(model, ref_model, args, data_collator, train_dataset, *positional, **keywords)
        if hasattr(self.data_collator, "max_length"):
            self.data_collator.max_length = None  # over-long pairs are excluded; nothing may be cut
        self.precompute_ref_logps = True  # the loss reads the reference log-probabilities we put into the batch
        plugin = self.accelerator.state.deepspeed_plugin
        self.is_sharded = self.is_fsdp_enabled or (plugin is not None and int(plugin.zero_stage) == 3)
        if not args.pad_to_multiple_of:
            self._remove_padding()
        scorer = ShardedScorer(
            self.accelerator,
            token_budget=args.score_token_budget,
            is_sharded=self.is_sharded,
            progress=not args.disable_tqdm,
        )
        self._models = TrainerModels(self, scorer, has_own_reference=ref_model is not None)
        check_moving(
            self.callback_handler.callbacks,
            args,
            keeps_reference=self._models.keeps_reference,
            is_sharded=self.is_sharded,
        )
        self.callback_handler = ReferenceHandler(self)
        is_logged = args.log_candidates and self.accelerator.is_main_process
        self.stream = CandidateStream(
            self.train_dataset,
            self._models,
            args.stream_settings(
                keep=self.keep_count,
                eos_token_id=self._tokenizer.eos_token_id,
                processes=self.accelerator.num_processes,
                process=self.accelerator.process_index,
            ),
            source=pair_source,
            competence=competence,
            exclusions=self._data.exclusions.get("train"),
            log=CandidateLog(Path(str(args.output_dir), "candidates") if is_logged else None),
        )
        self._resume, self._resume_path = ResumeState(self), ""
        self.stop_reason: str | None = None
        self.add_callback(StreamCallback(self))

    def _remove_padding(self) -> None:
        """Run the rows of a padded batch without padding; where layers must run equally often, in one row."""
        checkpointing = self.args.gradient_checkpointing_kwargs
        is_reentrant = isinstance(checkpointing, dict) and checkpointing.get("use_reentrant")
        is_reentrant_ddp = is_reentrant and self.accelerator.num_processes > 1
        remove_padding(self.model, allows_groups=not (self.is_sharded or is_reentrant_ddp))

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """Compile one layer for all layers and shapes; compiled whole, the model would be compiled for each shape."""
        arguments: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        # `accelerate launch` sets all variables, whether compilation was configured or not; the backend tells
        if self.args.torch_compile and os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() == "no":
            plugin = arguments["dynamo_plugin"]
            plugin.use_regional_compilation = plugin.dynamic = True
        return arguments

    # -- what a user may ask ---------------------------------------------------------------------------------------

    @property
    def token_counts(self) -> TokenCounts:
        """Tokens and pairs so far, over all processes and attempts."""
        return self.stream.counts

    @property
    def exclusions(self) -> dict[str, dict[str, int]]:
        """Pairs excluded by data set (`train`, `eval`, `eval_<name>`) and reason; from `train` also at refreshes."""
        return {**self._data.exclusions, "train": self.stream.exclusions}

    def stop(self, reason: str) -> None:
        """End training after this step; for callbacks."""
        self.control.should_training_stop = True
        self.stop_reason = reason
        logger.warning(f"training stops: {reason}")

    # -- TRL seams: data -------------------------------------------------------------------------------------------

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """Tokenize as TRL does, but exclude and count what TRL would cut or drop without a word."""
        whole = copy.copy(args)
        whole.max_length = None
        prepare = super()._prepare_dataset
        return self._data.prepare(
            dataset, dataset_name, self._tokenizer, lambda data: prepare(data, processing_class, whole, dataset_name)
        )

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Leave the training data to the stream, which is faster and survives a resume."""
        return (
            dataset
            if name == "train" and dataset is self.train_dataset
            else super()._precompute_ref_logps(dataset, name, batch_size)
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as TRL does; nothing is precomputed unless asked to: TRL would store the reference log-probabilities
        of a data set given here on disk, under a key without the model, and read those of another model back.
        """
        self.precompute_ref_logps = bool(self.args.precompute_ref_log_probs)
        return dict(super().evaluate(*args, **kwargs))

    # -- TRL seams: checkpoints ------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; a resumed run continues bit for bit, pool and reference log-probabilities included."""
        self._resume_path = checkpoint_to_resume(resume_from_checkpoint, str(self.args.output_dir)) or ""
        done: Any = super().train(self._resume_path or None, *args, **kwargs)
        return done._replace(training_loss=done.metrics["train_loss"])

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)  # over all attempts
        super().log(logs, *args, **kwargs)

    def start_stream(self) -> None:
        """Build the pool before the first step, or restore it."""
        self._models.weights.begin()
        if not self._resume_path:
            scorer, ld_alpha = self.stream.scorer, self.args.ld_alpha
            use_stored_reference(self.train_dataset, scorer, self._models, ld_alpha=ld_alpha)
            self._log_selection(self.stream.start(precompute_reference=self.args.precompute_ref_log_probs))
            return
        state = load_state(self._resume_path)
        self._resume.restore(state)
        load_moved(self._resume_path, self._models.weights, self.callback_handler.callbacks)
        self.stream.load_state_dict(state, step=self.state.global_step)

    def refresh_pool(self) -> None:
        """Refresh the pool with the policy as it is now."""
        self._log_selection(self.stream.refresh(self.model, step=self.state.global_step))

    def between_steps(self, step: int) -> None:
        """Refresh the pool if it is due or spent; stop where it is spent and cannot be renewed."""
        every = self.args.refresh_steps
        if self.stream.gate.is_spent and not self.stream.can_renew:
            open_share = self.args.spent_share
            self.stop(
                f"the pool is spent after step {step}: at most {100 * open_share:g} % of its pairs have a margin below "
                f"the gate ({self.stream.gate.threshold:.3g})"
            )
        elif (every and step % every == 0) or self.stream.gate.is_spent:
            self.refresh_pool()

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Write one; when callbacks have added theirs, it is marked and older ones are deleted (`StreamCallback`)."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # transformers would go by the clock
        if self.args.should_save:
            mark_incomplete(Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}"))
        try:
            super()._save_checkpoint(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        state = {**self.stream.state_dict(), **self._resume.state()}  # on every process: they exchange what they hold
        moved = self._models.weights.state_dict() if self._models.has_moved else None
        if self.accelerator.is_main_process:
            self.stream.log.flush()
            save_moved(output_dir, moved, self.callback_handler.callbacks)
            save_state(output_dir, state)
