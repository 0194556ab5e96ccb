"""`CandidateStream`: which pairs each optimizer step trains on.

    stream.start()
    for step in range(steps):
        batch = stream.next(step, progress=step / steps, microbatches=accumulation)
        ...                                   # train on batch.microbatches
        stream.refresh(model, step=step + 1)  # now and then

One call of `next`:

    draw N candidates from the pool -> score them forward-only -> rank and cut -> deal the kept pairs into microbatches

What this file does not know: any formula (core/), how a selector ranks (selectors/), how a forward pass is run, where
new pairs come from, TRL.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from sage_dpo.core.selection import candidate_count
from sage_dpo.errors import EmptyPoolError, RunFolderError
from sage_dpo.selection.dataset import TOKEN_COLUMNS, success_rate_column, usable_rows
from sage_dpo.selection.gate import CALIBRATION_PAIRS, Gate
from sage_dpo.selection.log import CandidateLog, candidate_records, selection_metrics
from sage_dpo.selection.microbatches import StepBatch, deal_microbatches
from sage_dpo.selection.models import Models
from sage_dpo.selection.pool import CandidatePool
from sage_dpo.selection.scoring import Columns, PairScorer, TokenCounts, check_finite, estimate_success_rates
from sage_dpo.selection.settings import StreamSettings
from sage_dpo.selection.source import PairSource, PoolContents
from sage_dpo.selectors import Candidates, CandidateScores, make_selector

logger = logging.getLogger(__name__)

Metrics = dict[str, float]

_GATE_STREAM = 0x47415445  # keeps the sample's key apart from (seed, version, step)


class CandidateStream:
    """Chooses, at every optimizer step, which pairs of a changing pool are trained on.

    Args:
        pairs: pool version 0, with columns `prompt_ids`, `chosen_ids`, `rejected_ids`; optional `id`, `problem_id`,
            `success_rate`. Rows that cannot be trained on are out already.
        models: the policy and its reference.
        settings: see `StreamSettings`.
        source: makes the pairs of a refresh; `None` keeps them and stratifies anew.
        competence: success rate of the untrained policy over all problems asked; default is the mean over pairs.
        exclusions: pairs left out of version 0, by reason.
        log: where every candidate is recorded; `None` records nothing.

    Attributes:
        pairs: of the pool as it is.
        counts: tokens and pairs so far.
        exclusions: pairs left out so far, by reason, those of refreshes included.
        attempted_refreshes: refreshes tried; more than the pool's version if one made no pairs.
    """

    def __init__(
        self,
        pairs: Dataset,
        models: Models,
        settings: StreamSettings,
        *,
        source: PairSource | None = None,
        competence: float | None = None,
        exclusions: dict[str, int] | None = None,
        log: CandidateLog | None = None,
    ) -> None:
        self.pairs = pairs
        self.settings = settings
        self.selector = make_selector(settings.selector)
        self.exclusions = dict(exclusions or {})
        self.attempted_refreshes = 0
        spent_share = settings.pool.spent_share
        self.gate = Gate(settings.selector, spent_share=spent_share, renewed=source is not None)
        self.scorer = PairScorer(models, max_age=settings.score_max_age)
        self.log = CandidateLog(None) if log is None else log
        self.source, self._first = source, pairs
        self._first_competence = competence
        self._pool: CandidatePool | None = None
        self._success_rates: NDArray[np.float64] | None = None

    @property
    def counts(self) -> TokenCounts:
        return self.scorer.counts

    @property
    def pool(self) -> CandidatePool:
        if self._pool is None:
            raise RuntimeError("the candidate pool is built when training starts; call start() first")
        return self._pool

    @property
    def candidate_count(self) -> int:
        """Pairs drawn per step, over all processes; fewer than `keep / keep_ratio` if the pool is smaller."""
        return min(candidate_count(self.settings.keep, self.settings.selector.keep_ratio), len(self.pairs))

    @property
    def can_renew(self) -> bool:
        """Whether new pairs may help where the pool is spent: they can be made, and this pool was not made for that."""
        return self.source is not None and not self.gate.is_renewed

    def start(self, *, precompute_reference: bool = False) -> Metrics:
        """Build the pool of version 0; return numbers to log.

        Args:
            precompute_reference: score all its pairs with the reference now.

        Raises:
            EmptyPoolError: it holds fewer pairs than one step trains on.
            NumericalError: a log-probability is NaN or infinite.
        """
        self.log.rewind(0)
        contents = PoolContents(self._first, success_rate_column(self._first), competence=self._first_competence)
        metrics = self._enter(contents, version=0, step=0)
        if self.gate.threshold is not None:
            metrics["gate/threshold"] = self.gate.threshold
        if precompute_reference:  # after _enter, which may have met them already
            self.scorer.pair_reference(self._first[:], ld_alpha=self.settings.ld_alpha)
        return metrics

    def next(self, step: int, *, progress: float, microbatches: int) -> StepBatch:
        """Choose the pairs of optimizer step `step`.

        Args:
            step: optimizer steps done.
            progress: share of training done, in [0, 1]; moves the schedule over strata.
            microbatches: forward and backward passes of the step on each process.

        Raises:
            NumericalError: a log-probability is NaN or infinite; names the pairs.
        """
        draw = self.pool.draw(self.candidate_count, step=step, progress=progress)
        columns: Columns = self.pairs[draw.indices.tolist()]
        metrics: Metrics = {}
        scores = None
        if self.selector.needs_scores:
            scores, metrics["scores_reused"] = self.scorer.score(
                columns,
                step=step,
                with_informativeness=self.selector.needs_informativeness,
                with_reference=self.selector.needs_reference,
            )
        key = np.random.SeedSequence((self.settings.seed, self.pool.version, step))
        rng = np.random.Generator(np.random.Philox(key))
        candidates = Candidates(len(draw.indices), rng, scores, draw.strata, self.gate.threshold)
        selection = self.selector.select(candidates, self.settings.keep)
        self.gate.observe(selection.is_open, pool_size=len(self.pairs))
        batch = self._batch(columns, selection.kept, microbatches, step)
        self.counts.candidate_pairs += len(draw.indices)
        metrics |= selection_metrics(draw, selection, self.counts)
        if self.log.is_on:
            self.log.add(candidate_records(columns, draw, selection, step=step, pool_version=self.pool.version))
        return replace(batch, metrics=metrics)

    def refresh(self, model: Any, *, step: int) -> Metrics:
        """Refresh the pool with the policy `model` as it is after `step` optimizer steps; return numbers to log.

        If no pairs can be made any more, the pool stays and nothing is returned. Raises `NumericalError`.
        """
        self.gate.is_renewed = self.gate.is_spent
        self.attempted_refreshes += 1
        version = self.attempted_refreshes
        if self.source is None:
            return self._enter(PoolContents(self.pairs, success_rate_column(self.pairs)), version=version, step=step)
        try:
            contents = self._usable(self.source.refresh(model, version=version, step=step))
            if len(contents.pairs) < self.settings.keep:
                raise EmptyPoolError(f"{len(contents.pairs)} new pairs, {self.settings.keep} needed for one step")
        except EmptyPoolError as error:
            if self.settings.process == 0:
                logger.warning(
                    f"refresh {version} after step {step} keeps the pool of version {self.pool.version}: {error}"
                )
            return {}
        return self._enter(contents, version=version, step=step)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the pairs; arrays under `success_rates`, `reference`, `scores`."""
        return {
            "settings": self.settings.of_checkpoint(),
            "pool": self.pool.state_dict(),
            "attempted_version": self.attempted_refreshes,
            "counts": self.counts.as_dict(),
            "exclusions": self.exclusions,
            "gate": self.gate.state_dict(),
            "success_rates": self._success_rates,
            "reference": self.scorer.reference.state_dict(),
            "scores": self.scorer.memory.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], *, step: int) -> None:
        """Continue where `state` left off, after `step` optimizer steps; the pairs come from the source again.

        Raises:
            RunFolderError: the state was written with other selection settings.
            DataError: it belongs to another reference model.
        """
        mine = self.settings.of_checkpoint()
        changed = sorted(name for name in mine if state["settings"].get(name) != mine[name])
        if changed:
            raise RunFolderError(
                f"the checkpoint was written with other selection settings (differing: {', '.join(changed)}); "
                "resume with the same SAGEConfig or start anew"
            )
        self.scorer.reference.load_state_dict(state["reference"])
        self.scorer.memory.load_state_dict(state["scores"])
        self.scorer.counts = TokenCounts(**state["counts"])
        version = int(state["pool"]["version"])
        if self.source is not None and version > 0:
            self.pairs = self._usable(self.source.restore(version=version)).pairs
        self._set_pool(state["success_rates"], version=version, competence=state["pool"]["competence"])
        self.pool.load_state_dict(state["pool"])
        self.attempted_refreshes = state["attempted_version"]
        self.exclusions = dict(state["exclusions"])
        self.gate.load_state_dict(state["gate"])
        self.log.rewind(step)

    # -- parts of a step -------------------------------------------------------------------------------------------

    def _batch(self, columns: Columns, kept: NDArray[np.int64], microbatches: int, step: int) -> StepBatch:
        """Give the kept pairs their reference log-probabilities and deal them out."""
        pairs: Columns = {name: [column[i] for i in kept] for name, column in columns.items()}
        prompt, chosen, rejected = (
            np.array([len(ids) for ids in pairs[name]], dtype=np.int64) for name in TOKEN_COLUMNS
        )
        lengths = 2 * prompt + chosen + rejected
        is_short = len(kept) < self.settings.keep and self.settings.selector.gate_mean == "asked"
        asked = self.settings.keep if is_short else None
        keys = lengths if self.settings.groups_by_length else kept
        dealt = deal_microbatches(
            keys, count=microbatches, processes=self.settings.processes, asked=asked, tokens=chosen
        )
        reference = self.scorer.pair_reference(pairs, ld_alpha=self.settings.ld_alpha)
        check_finite(reference, pairs, "reference", step)
        pairs["ref_chosen_logps"], pairs["ref_rejected_logps"] = (half.tolist() for half in np.split(reference, 2))
        self.counts.trained += int(lengths.sum())
        self.counts.trained_pairs += len(kept)
        return StepBatch(dealt[self.settings.process], pairs, {})

    def _usable(self, contents: PoolContents) -> PoolContents:
        """Leave out, and count, new pairs that could not be trained on whole."""
        rows, excluded = usable_rows(contents.pairs, self.settings.max_length, self.settings.eos_token_id)
        if not excluded:
            return contents
        for reason, count in excluded.items():
            self.exclusions[reason] = self.exclusions.get(reason, 0) + count
        rates = contents.success_rates
        rates = None if rates is None else rates[rows]
        return replace(contents, pairs=contents.pairs.select(rows), success_rates=rates)

    def _enter(self, contents: PoolContents, *, version: int, step: int) -> Metrics:
        self.pairs = contents.pairs
        if len(self.pairs) < self.settings.keep:
            raise EmptyPoolError(
                f"the pool holds {len(self.pairs)} pairs, fewer than the {self.settings.keep} trained on per step; "
                "lower per_device_train_batch_size x gradient_accumulation_steps or add pairs"
            )
        rates, surveyed = contents.success_rates, None
        if rates is None and self.settings.pool.stratified:
            surveyed = self.scorer.survey(self.pairs[:], step=step, label="scoring the pool")
            rates = estimate_success_rates(surveyed, temperature=self.settings.selector.margin_temperature)
        self._set_pool(rates, version=version, competence=contents.competence)
        self.gate.reset()
        if self.gate.needs_calibration:
            self.gate.calibrate(self._margins(surveyed))
        return {**contents.metrics, **self.pool.metrics()}

    def _margins(self, surveyed: CandidateScores | None) -> NDArray[np.float64]:
        """Return the margins of the pool's pairs; where none of them has been scored, of a sample."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.settings.seed, _GATE_STREAM))))
        count = len(self.pairs)
        if surveyed is None:
            rows = np.sort(rng.permutation(count)[:CALIBRATION_PAIRS])
            count, surveyed = len(rows), self.scorer.survey(self.pairs[rows.tolist()], label="calibrating the gate")
        return self.selector.margin(Candidates(count, rng, surveyed)).numpy()

    def _set_pool(self, rates: NDArray[np.float64] | None, *, version: int, competence: float | None) -> None:
        self._success_rates = rates if self.settings.pool.stratified else None
        arguments: dict[str, Any] = {"version": version, "competence": competence}
        if self._pool is None:
            settings, seed = self.settings.pool, self.settings.seed
            self._pool = CandidatePool(len(self.pairs), self._success_rates, settings=settings, seed=seed, **arguments)
        else:
            self._pool.refresh(len(self.pairs), self._success_rates, **arguments)
