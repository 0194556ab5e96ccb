"""`SAGETrainer`: TRL's `DPOTrainer` that chooses, at every optimizer step, which pairs it trains on.

One optimizer step:

    draw N candidates from the pool -> score them forward-only -> keep the best k -> TRL's DPO step on the k

The loss, the optimizer, LoRA, mixed precision, trackers and distributed wrappers are TRL's and transformers' own. The
seams used, and the traps behind each choice, are listed in docs/architecture.md.

What this file does not know: any formula (core/), how a selector ranks (selectors/), how new pairs are made.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.logging import get_logger
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl import DPOTrainer

from sage_dpo.core.margins import confidence_margin
from sage_dpo.core.selection import candidate_count
from sage_dpo.core.strata import relative_success_rate
from sage_dpo.errors import EmptyPoolError, NumericalError, RunFolderError
from sage_dpo.forward import as_completions
from sage_dpo.forward.training_rows import remove_padding
from sage_dpo.pool.pool import CandidatePool
from sage_dpo.pool.source import PairSource, PoolContents
from sage_dpo.scoring import ScoreMemory
from sage_dpo.selectors.base import CandidateScores
from sage_dpo.selectors.registry import make_selector
from sage_dpo.training.candidates import CandidateLog
from sage_dpo.training.checks import check_arguments, success_rate_column
from sage_dpo.training.config import SAGEConfig
from sage_dpo.training.dataset import TOKEN_COLUMNS, usable_rows
from sage_dpo.training.reference import ReferenceLogps
from sage_dpo.training.selection_log import candidate_records, pair_id, selection_metrics
from sage_dpo.training.sharding import ShardedScorer
from sage_dpo.training.state import (
    SageState,
    TokenCounts,
    last_complete_checkpoint,
    load_state,
    reference_path,
    save_state,
    scores_path,
)

logger = get_logger(__name__)


class SAGETrainer(DPOTrainer):
    """Drop-in replacement for `trl.DPOTrainer`.

    Args:
        model, ref_model, data_collator, train_dataset, eval_dataset, processing_class, peft_config, ...: as in TRL.
            `train_dataset` must be a map-style text preference data set; an optional column `success_rate` in
            [0, 1] gives each pair's difficulty, else it is estimated from the policy's margins. Already tokenized
            data (`prompt_ids`, `chosen_ids`, `rejected_ids`) is taken as it is.
        args: a `SAGEConfig`.
        pair_source: makes new pairs with the current policy every `args.refresh_steps` steps.
        competence: success rate of the untrained policy over all problems asked; default is the mean over pairs.

    Raises:
        ConfigError, DataError, EmptyPoolError: before training starts, with the remedy in the message.
        NumericalError: a log-probability is NaN or infinite; names the pairs.
    """

    _tag_names = ["trl", "dpo", "sage"]  # noqa: RUF012 - TRL declares it so
    _name = "SAGE"

    args: SAGEConfig
    model: Any
    train_dataset: Dataset

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: SAGEConfig | None = None,
        data_collator: Any = None,
        train_dataset: Dataset | None = None,
        *positional: Any,
        pair_source: PairSource | None = None,
        competence: float | None = None,
        **keywords: Any,
    ) -> None:
        args = SAGEConfig() if args is None else args
        check_arguments(args, train_dataset, pair_source)
        self._excluded: dict[str, dict[str, int]] = {}
        super().__init__(model, ref_model, args, data_collator, train_dataset, *positional, **keywords)
        if hasattr(self.data_collator, "max_length"):
            self.data_collator.max_length = None  # over-long pairs are excluded; nothing may be cut
        self.precompute_ref_logps = True  # the loss reads the reference log-probabilities we put into the batch
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        checkpointing = args.gradient_checkpointing_kwargs
        is_reentrant = isinstance(checkpointing, dict) and checkpointing.get("use_reentrant")
        if not args.pad_to_multiple_of:
            is_reentrant_ddp = is_reentrant and self.accelerator.num_processes > 1
            remove_padding(self.model, allows_groups=not (is_sharded or is_reentrant_ddp))
        self.scorer = ShardedScorer(
            self.accelerator,
            token_budget=args.score_token_budget,
            is_sharded=is_sharded,
            progress=not args.disable_tqdm,
        )
        self.score_memory = ScoreMemory(args.score_max_age)
        self.selector = make_selector(args.selector_settings())
        self.pair_source = pair_source
        self._first_competence = competence
        self.pairs: Dataset = self.train_dataset
        self.token_counts = TokenCounts()
        self.candidate_log = CandidateLog(Path(str(args.output_dir), "candidates") if args.log_candidates else None)
        self.reference = ReferenceLogps(self, has_own_model=ref_model is not None)
        self._pool: CandidatePool | None = None
        self._success_rates: NDArray[np.float64] | None = None
        self._attempted_version = 0
        self._resume_path: str | None = None
        self.add_callback(_PoolCallback(self))

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """Compile one layer for all layers and shapes; compiled whole, the model would be compiled for each shape."""
        arguments: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        # `accelerate launch` sets all variables, whether compilation was configured or not; the backend tells
        if self.args.torch_compile and os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() == "no":
            plugin = arguments["dynamo_plugin"]
            plugin.use_regional_compilation = plugin.dynamic = True
        return arguments

    # -- sizes -----------------------------------------------------------------------------------------------------

    @property
    def keep_count(self) -> int:
        """Pairs trained on per optimizer step, over all processes."""
        args = self.args
        return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * self.accelerator.num_processes)

    @property
    def candidate_count(self) -> int:
        """Pairs drawn per optimizer step, over all processes; fewer if the pool is smaller."""
        return min(candidate_count(self.keep_count, self.args.keep_ratio), len(self.pairs))

    @property
    def pool(self) -> CandidatePool:
        if self._pool is None:
            raise RuntimeError("the candidate pool is built when training starts; call train() first")
        return self._pool

    @property
    def attempted_refreshes(self) -> int:
        """Refreshes tried so far; more than the pool's version if one made no pairs."""
        return self._attempted_version

    @property
    def exclusions(self) -> dict[str, dict[str, int]]:
        """Pairs excluded from each data set, by reason."""
        return self._excluded

    def log_metric(self, name: str, value: float) -> None:
        """Add a number to what is logged next; several between two logs are averaged."""
        self._metrics["train"][name].append(value)

    # -- TRL seams: data -------------------------------------------------------------------------------------------

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """Tokenize as TRL does, but exclude and count what TRL would cut or drop without a word."""
        if not set(TOKEN_COLUMNS) <= set(dataset.column_names):
            whole = copy.copy(args)
            whole.max_length = None
            dataset = super()._prepare_dataset(dataset, processing_class, whole, dataset_name)
        rows, excluded = usable_rows(dataset, args.max_length, self._tokenizer.eos_token_id)
        dataset = dataset.select(rows) if excluded else dataset
        self._excluded[dataset_name] = excluded
        if excluded:
            logger.warning(
                f"excluded from the {dataset_name} data: {excluded}; {len(dataset)} pairs remain. "
                f"For over-long pairs raise max_length (now {args.max_length})."
            )
        if len(dataset) == 0:
            raise EmptyPoolError(
                f"no usable pair in the {dataset_name} data, excluded: {excluded}; "
                f"raise max_length (now {args.max_length}) or check the data"
            )
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Leave the training data to our own scorer, which is faster and survives a resume; see `_start`."""
        return dataset if name == "train" else super()._precompute_ref_logps(dataset, name, batch_size)

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader of tickets, one per microbatch: the loop's clock does not depend on the pool's length."""
        steps = self.args.max_steps
        if steps <= 0:
            steps = math.ceil(len(self.train_dataset) / self.candidate_count)
        return DataLoader(range(steps * self.args.gradient_accumulation_steps), batch_size=1)  # type: ignore[arg-type]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """Return the microbatches of one optimizer step: the kept pairs, grouped by length."""
        if not list(itertools.islice(epoch_iterator, num_batches)):
            return [], None
        step = self.state.global_step
        draw = self.pool.draw(self.candidate_count, step=step, progress=min(step / self.state.max_steps, 1.0))
        columns = self.pairs[draw.indices.tolist()]
        scores = self._score_candidates(columns) if self.selector.needs_scores else None
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.args.seed, self.pool.version, step))))
        selection = self.selector.select(
            scores, count=len(draw.indices), keep=self.keep_count, strata=draw.strata, rng=rng
        )
        microbatches = self._microbatches(columns, selection.kept, num_batches)
        self.reference.is_policy = False  # from here on the policy moves
        self.token_counts.candidate_pairs += len(draw.indices)
        for name, value in selection_metrics(draw, selection, self.token_counts).items():
            self.log_metric(name, value)
        if self.accelerator.is_main_process:
            version = self.pool.version
            self.candidate_log.add(candidate_records(columns, draw, selection, step=step, pool_version=version))
        return microbatches, None

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute TRL's loss; evaluation batches that come without reference log-probabilities get TRL's own."""
        self.precompute_ref_logps = "ref_chosen_logps" in inputs
        return super().compute_loss(model, inputs, *args, **kwargs)

    # -- TRL seams: checkpoints ------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; a resumed run continues bit for bit, pool and reference log-probabilities included."""
        if resume_from_checkpoint is True:
            found = last_complete_checkpoint(str(self.args.output_dir))
            if found is None:
                raise RunFolderError(f"no complete checkpoint in {self.args.output_dir}; train without resuming")
            resume_from_checkpoint = str(found)
        self._resume_path = resume_from_checkpoint or None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.accelerator.is_main_process:
            self.reference.cache.save(reference_path(output_dir))
            if self.score_memory.max_age:
                self.score_memory.save(scores_path(output_dir))
            self.candidate_log.flush()
            save_state(
                output_dir,
                SageState(
                    settings=self._settings(),
                    pool=self.pool.state_dict(),
                    attempted_version=self._attempted_version,
                    counts=self.token_counts.as_dict(),
                    success_rates=self._success_rates,
                    trl_tokens=self._total_train_tokens,
                ),
            )

    def _settings(self) -> dict[str, Any]:
        return {
            **self.args.selector_settings().model_dump(mode="json"),
            **self.args.pool_settings().model_dump(mode="json"),
            "keep_count": self.keep_count,
            "score_max_age": self.args.score_max_age,
        }

    # -- the pool --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Build the pool before the first step, or restore it."""
        if self._resume_path is None:
            self._rewind_log(0)
            contents = PoolContents(
                self.train_dataset, success_rate_column(self.train_dataset), competence=self._first_competence
            )
            self._enter(contents, version=0)
            if self.args.precompute_ref_log_probs:  # after _enter, which may have met them already
                self.reference.logps(as_completions(self.train_dataset[:]))
            return
        state = load_state(self._resume_path, settings=self._settings())
        self.reference.cache.load(reference_path(self._resume_path))
        if self.score_memory.max_age:
            self.score_memory.load(scores_path(self._resume_path))
        version = int(state.pool["version"])
        if self.pair_source is not None and version > 0:
            self.pairs = self._whole(self.pair_source.restore(version=version)).pairs
        self._set_pool(state.success_rates, version=version, competence=state.pool["competence"])
        self.pool.load_state_dict(state.pool)
        self.token_counts = TokenCounts(**state.counts)
        self._total_train_tokens = state.trl_tokens
        self._attempted_version = state.attempted_version
        self.reference.is_policy = False
        self._rewind_log(self.state.global_step)

    def _rewind_log(self, step: int) -> None:
        if self.accelerator.is_main_process:
            self.candidate_log.rewind(step)

    def _whole(self, contents: PoolContents) -> PoolContents:
        """Leave out, and count, new pairs that could not be trained on whole."""
        rows, excluded = usable_rows(contents.pairs, self.args.max_length, self._tokenizer.eos_token_id)
        if not excluded:
            return contents
        counts = self._excluded.setdefault("train", {})
        for reason, count in excluded.items():
            counts[reason] = counts.get(reason, 0) + count
        rates = contents.success_rates
        return replace(
            contents, pairs=contents.pairs.select(rows), success_rates=None if rates is None else rates[rows]
        )

    def _refresh(self) -> None:
        """Refresh the pool with the policy as it is now; if it can make no pair any more, keep the pool."""
        self._attempted_version += 1
        version, step = self._attempted_version, self.state.global_step
        if self.pair_source is None:
            contents = PoolContents(self.pairs, success_rate_column(self.pairs))
        else:
            try:
                contents = self._whole(self.pair_source.refresh(self.model, version=version, step=step))
                if len(contents.pairs) < self.keep_count:
                    raise EmptyPoolError(f"{len(contents.pairs)} new pairs, {self.keep_count} needed for one step")
            except EmptyPoolError as error:
                logger.warning(
                    f"refresh {version} after step {step} keeps the pool of version {self.pool.version}: {error}"
                )
                return
        self._enter(contents, version=version)

    def _enter(self, contents: PoolContents, *, version: int) -> None:
        self.pairs = contents.pairs
        if len(self.pairs) < self.keep_count:
            raise EmptyPoolError(
                f"the pool holds {len(self.pairs)} pairs, fewer than the {self.keep_count} trained on per step; "
                "lower per_device_train_batch_size x gradient_accumulation_steps or add pairs"
            )
        rates = contents.success_rates
        if rates is None and self.args.stratified:
            rates = self._estimate_success_rates()
        self._set_pool(rates, version=version, competence=contents.competence)
        for name, value in {**contents.metrics, **self.pool.metrics()}.items():
            self.log_metric(f"sage/{name}", value)

    def _set_pool(self, rates: NDArray[np.float64] | None, *, version: int, competence: float | None) -> None:
        self._success_rates = rates if self.args.stratified else None
        arguments: dict[str, Any] = {"version": version, "competence": competence}
        if self._pool is None:
            settings = self.args.pool_settings()
            self._pool = CandidatePool(
                len(self.pairs), self._success_rates, settings=settings, seed=self.args.seed, **arguments
            )
        else:
            self._pool.refresh(len(self.pairs), self._success_rates, **arguments)

    def _estimate_success_rates(self) -> NDArray[np.float64]:
        """Rank all pairs by the policy's confidence margin; one forward pass over the pool."""
        completions = as_completions(self.pairs[:])
        scores = self.scorer.score(self.model, completions, label="scoring the pool")
        self.token_counts.scored += scores.tokens
        self._check_finite(scores.logps, self.pairs[:], "policy")
        if self.reference.is_policy:
            self.reference.cache.add(completions, scores.logps)
        half = len(self.pairs)
        margins = confidence_margin(
            torch.from_numpy(scores.logps[:half]),
            torch.from_numpy(scores.logps[half:]),
            torch.from_numpy(scores.lengths[:half]),
            torch.from_numpy(scores.lengths[half:]),
            temperature=self.args.margin_temperature,
        )
        return relative_success_rate(margins.numpy())

    # -- scoring ---------------------------------------------------------------------------------------------------

    def _score_candidates(self, columns: dict[str, list[Any]]) -> CandidateScores:
        completions = as_completions(columns)
        scores, reused = self.score_memory.scores(
            completions, step=self.state.global_step, compute=lambda missing: self.scorer.score(self.model, missing)
        )
        self.log_metric("sage/scores_reused", reused)
        self.token_counts.scored += scores.tokens
        self._check_finite(scores.logps, columns, "policy")
        reference = self.reference.logps(completions) if self.selector.needs_reference else None
        return CandidateScores.of_completions(scores.logps, scores.lengths, scores.informativeness, ref_logps=reference)

    def _check_finite(self, logps: NDArray[np.float64], columns: dict[str, list[Any]], whose: str) -> None:
        bad = np.flatnonzero(~np.isfinite(logps)) % len(columns["prompt_ids"])
        if len(bad):
            ids = [pair_id(columns, i, i) for i in bad[:5]]
            raise NumericalError(
                f"{len(bad)} {whose} log-probabilities are not finite at step {self.state.global_step} (pairs {ids}); "
                "lower the learning rate, or use bf16 or float32 in place of fp16"
            )

    # -- microbatches and metrics ----------------------------------------------------------------------------------

    def _microbatches(self, columns: dict[str, list[Any]], kept: NDArray[np.int64], count: int) -> list[dict[str, Any]]:
        """Collate this process's share of the kept pairs; neighbours in length share a microbatch."""
        chosen = {name: [columns[name][i] for i in kept] for name in TOKEN_COLUMNS}
        reference = self.reference.logps(as_completions(chosen))
        self._check_finite(reference, chosen, "reference")
        lengths = [
            2 * len(p) + len(c) + len(r) for p, c, r in zip(*(chosen[name] for name in TOKEN_COLUMNS), strict=True)
        ]
        self.token_counts.trained += sum(lengths)
        self.token_counts.trained_pairs += len(kept)
        order = np.argsort(lengths, kind="stable")
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        groups = order.reshape(count, world, -1)[:, rank]
        return [
            self.data_collator(
                [
                    {
                        **{name: chosen[name][i] for name in TOKEN_COLUMNS},
                        "ref_chosen_logps": float(reference[i]),
                        "ref_rejected_logps": float(reference[len(kept) + i]),
                    }
                    for i in group
                ]
            )
            for group in groups
        ]


class _PoolCallback(TrainerCallback):
    """Builds the pool before the first step and refreshes it between steps, before a checkpoint is written."""

    def __init__(self, trainer: SAGETrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer._start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = self._trainer.args.refresh_steps
        if every and state.global_step % every == 0 and state.global_step < state.max_steps:
            self._trainer._refresh()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.candidate_log.flush()
