"""What an arm's policy can do, and has cost, between the steps of its training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sage_dpo.config import RunConfig
from sage_dpo.core.flops import policy_flops
from sage_dpo.costs import Costs
from sage_dpo.errors import DataError
from sage_dpo.pipeline.best import BestProbe
from sage_dpo.pipeline.on_policy import read_info
from sage_dpo.run_folder import ArmFolder, SuitesFolder
from sage_dpo.storage import read_json, write_json
from sage_dpo.training import SAGETrainer

CLOCK = "clock.json"
"""The clock's part of a checkpoint."""

Probe = Callable[[Any], float]
"""Measures a policy's greedy accuracy on the probe problems."""

Evaluate = Callable[[Any, SuitesFolder], object]
"""Runs a policy on the suites and writes the results to a folder."""


class Clock(TrainerCallback):
    """Measures between steps what the policy can do and what it has cost, over all attempts at a run.

    Probe accuracy goes to the metrics with the costs so far; suites run on the way go to `at-<step>/`. The policy is
    probed every `training.probe_steps` and after the last step, also where training ends by itself.

    Args:
        trainer: of the arm. Where the checkpoint is of a training that had ended, it is told to take no further step.
        config: the arm's own.
        folder: the arm's.
        probe, evaluate: how a policy is measured; `None` measures nothing.
        checkpoint: from which training goes on, or `None`.
        is_main: whether this is the process that writes; every one measures.

    Attributes:
        parameters: numbers in the policy.
        best: the best probe so far.
    """

    def __init__(
        self,
        trainer: SAGETrainer,
        config: RunConfig,
        folder: ArmFolder,
        probe: Probe | None,
        evaluate: Evaluate | None,
        checkpoint: Path | None,
        is_main: bool = True,
    ) -> None:
        self._trainer, self._folder, self._probe, self._evaluate = trainer, folder, probe, evaluate
        self._is_main = is_main
        self._every = config.training.probe_steps if probe else 0
        self._at_steps = frozenset(config.evaluation.at_steps if config.evaluation and evaluate else ())
        self.parameters = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters())  # ZeRO-3
        state: dict[str, Any] = {"total": 0.0, "probing": 0.0, "best": None, "stop_reason": None}
        state |= read_json(checkpoint / CLOCK) if checkpoint else {}
        self._started = time.perf_counter() - state["total"]
        self._total: float | None = None
        self._measuring: float = state["probing"]
        keeps_policy = evaluate is not None and config.evaluation is not None and config.evaluation.at_best
        patience = config.training.patience
        self.best = BestProbe(
            folder, patience=patience, keeps_policy=keeps_policy, state=state["best"], is_main=is_main
        )
        if state["stop_reason"]:
            trainer.stop_reason, trainer.args.max_steps = state["stop_reason"], state["step"]

    def costs(self) -> Costs:
        """Return what the policy has cost so far, without the first pool's part."""
        total = self._total or time.perf_counter() - self._started
        has_source = self._trainer.stream.source is not None
        versions = range(1, self._trainer.stream.attempted_refreshes + 1) if has_source else ()
        refreshes = [read_info(self._folder.refresh(version)) for version in versions]
        generated = sum(info.generated_tokens for info in refreshes)
        counts = self._trainer.token_counts
        refresh_seconds = sum(info.seconds for info in refreshes)
        training = total - refresh_seconds - self._measuring
        return Costs(
            train_tokens=counts.trained,
            scored_tokens=counts.scored,
            reference_tokens=counts.reference,
            generated_tokens=generated,
            wall_s=refresh_seconds + training,
            wall_breakdown={"refresh": refresh_seconds, "training": training, "probe": self._measuring},
            flops=policy_flops(
                sampled=generated + sum(info.prompt_tokens for info in refreshes),
                scored=counts.scored,
                reference=counts.reference,
                trained=counts.trained,
                parameters=self.parameters,
            ),
            candidate_pairs=counts.candidate_pairs,
            kept_pairs=counts.trained_pairs,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, is_last = state.global_step, state.global_step == state.max_steps
        if self._every and (step % self._every == 0 or is_last):
            for name, value in self._measure(step, is_last=is_last).items():
                self._trainer.log_metric(name, value)
            if self.best.stop_reason and not is_last:
                self._trainer.stop(self.best.stop_reason)
                return  # the suites are run at the end
        if self._evaluate and step in self._at_steps and not is_last:
            costs, started = self.costs(), time.perf_counter()
            milestone = self._folder.milestone(step)
            self._evaluate(self._trainer.model, milestone)
            if self._is_main:
                write_json(milestone.costs, costs.as_dict())
            self._measuring += time.perf_counter() - started

    def _measure(self, step: int, *, is_last: bool) -> dict[str, float]:
        """Probe the policy; return the metrics of it."""
        assert self._probe is not None
        costs, started = self.costs(), time.perf_counter()
        accuracy = self._probe(self._trainer.model)
        self.best.observe(step, accuracy, costs, None if is_last else self._save_policy)
        self._measuring += time.perf_counter() - started
        return {"cost/seconds": costs.wall_s, "cost/flops": costs.flops, "probe/accuracy": accuracy}

    def _save_policy(self, folder: Path) -> None:
        self._trainer.save_model(str(folder))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._is_main:
            return
        content = {
            "step": state.global_step,
            "total": time.perf_counter() - self._started,
            "probing": self._measuring,
            "best": self.best.state_dict(),
            "stop_reason": self._trainer.stop_reason,
        }
        write_json(Path(args.output_dir, f"checkpoint-{state.global_step}", CLOCK), content)
        self.best.on_checkpoint(_best_steps(Path(args.output_dir)))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._every and state.global_step > self.best.last_step:  # ended by itself, between two probes
            self._trainer.log(self._measure(state.global_step, is_last=True))
        self._total = time.perf_counter() - self._started


def _best_steps(checkpoints: Path) -> set[int]:
    """Return the steps of the best probes that checkpoints know."""
    steps = set()
    for path in checkpoints.glob(f"checkpoint-*/{CLOCK}"):
        with contextlib.suppress(DataError):  # a damaged one is not resumed from
            found = read_json(path)["best"]["found"]
            steps |= {found["step"]} if found else set()
    return steps
