"""The order of the stages, from a recipe to a report.

    problems -> rollouts -> verdicts -> pairs -> (pool -> scores -> selection -> DPO step)* -> evaluation -> report

Every stage is recorded in the run folder's manifest when it is complete; running the same recipe again continues
where the last run ended. All arms start from the same policy and the same first pool.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers.utils import logging as transformers_logging

from sage_dpo.config import FixedPairSettings, RunConfig, dump_config
from sage_dpo.core.flops import forward_flops
from sage_dpo.core.statistics import bootstrap_interval, paired_difference_interval
from sage_dpo.errors import ConfigError, RunFolderError
from sage_dpo.evaluation import EvaluationResult, evaluate_policy
from sage_dpo.pairs.preference_data import load_preference_data, tokenize_preferences
from sage_dpo.pipeline.arms import load_trained, milestone_folder, train_arm, trainer_arguments
from sage_dpo.pipeline.on_policy import OnPolicySource, pairs_dataset, read_info, refresh_folder
from sage_dpo.pipeline.policies import load_model, load_tokenizer
from sage_dpo.pipeline.sources import load_problem_source, load_suites
from sage_dpo.problems.overlap import overlap_report
from sage_dpo.records import PreferencePair, Problem
from sage_dpo.report import write_report
from sage_dpo.storage import LOCK, RunFolder, locked, read_json, read_records, write_json, write_records
from sage_dpo.verification import Verifier


def run(config: RunConfig, *, output: str | Path | None = None, fresh: bool = False, progress: bool = True) -> Path:
    """Run a recipe from start to report, continuing an interrupted run of the same recipe.

    Args:
        config: validated recipe.
        output: run folder; default `<output_dir>/<name>`.
        fresh: delete the folder first.
        progress: show progress bars.

    Returns:
        The run folder, with `summary.json` and `report/index.html`.

    Raises:
        SageError: with the remedy in the message.
    """
    if PartialState().num_processes > 1:
        raise ConfigError(
            "`sage-dpo run` drives one process; for several, use SAGETrainer in a script under `accelerate launch` "
            "(see docs/scaling.md)"
        )
    for arm in config.arms:  # a wrong key must not surface after an hour of rollouts
        if config.arms[arm].train:
            trainer_arguments(config.for_arm(arm), Path("unused"), progress=False)
    root = Path(output) if output else Path(config.output_dir) / config.name
    transformers_logging.disable_progress_bar()  # a bar for each file of weights hides the ones that matter
    tokenizer, suites = load_tokenizer(config.policy), load_suites(config.evaluation)
    with Verifier(**config.verification.model_dump()) as verifier:
        if fresh and root.exists():  # only now that everything else is known to be in order
            _delete(root)
        with locked(root):
            folder = RunFolder(root, dump_config(config))
            return _Run(config, folder, tokenizer, suites, verifier, progress).execute()


def _delete(root: Path) -> None:
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if "manifest.json" not in names and names != {LOCK}:  # a lock alone: killed before it had begun
        raise RunFolderError(f"{root} is not a run folder (no manifest.json), so --fresh does not delete it")
    # Renamed first: an interrupted deletion must not leave half a run under the name.
    with locked(root):
        doomed = root.rename(root.with_name(f".{root.name}.deleted.{os.getpid()}"))
    shutil.rmtree(doomed)


class _Run:
    """One run's state: what is loaded once and handed from stage to stage."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        tokenizer: Any,
        suites: dict[str, list[Problem]],
        verifier: Verifier,
        progress: bool,
    ) -> None:
        self.config, self.folder, self.verifier, self.progress = config, folder, verifier, progress
        self.tokenizer, self.suites = tokenizer, suites

    def execute(self) -> Path:
        self.folder.stage("problems", self._problems)
        self.folder.stage("pool-000", self._first_pool)
        results = {}
        for name, settings in self.config.arms.items():
            self._announce(f"arm {name}")
            if settings.train:
                self.folder.stage(f"arms/{name}/train", lambda name=name: self._train(name))  # type: ignore[misc]
            if self.suites:
                results[name] = self._evaluate(name)
        write_json(self.folder.path("summary.json"), self._summary(results))
        write_report(self.folder.root)
        return self.folder.root

    # -- stages ----------------------------------------------------------------------------------------------------

    def _problems(self) -> dict[str, Any]:
        info: dict[str, Any] = {}
        for name, source in (("train", self.config.problems), ("probe", self.config.probe)):
            if source is None:
                continue
            problems, excluded, digest = load_problem_source(source, seed=self.config.seed)
            write_records(self.folder.path("problems", f"{name}.parquet"), problems, Problem)
            self.folder.record_data(f"problems/{name}", digest)
            overlap = [asdict(row) for row in overlap_report(problems, self.suites)]
            info[name] = {"count": len(problems), "excluded": excluded, "overlap": len(overlap)}
            if overlap:
                write_json(self.folder.path("problems", f"{name}-overlap.json"), overlap)
                self._announce(f"{len(overlap)} {name} problems overlap the evaluation suites, see problems/")
        return info

    def _first_pool(self) -> dict[str, Any]:
        self._announce("first pool")
        folder = refresh_folder(self.folder.path("initial"), 0)
        info: dict[str, Any] = {"probe_accuracy": None, "generated_tokens": 0}
        started = time.perf_counter()
        model = None
        if isinstance(self.config.pairs, FixedPairSettings):
            fixed = self.config.pairs
            data = load_preference_data(fixed.path, split=fixed.split, revision=fixed.revision, limit=fixed.limit)
            build = tokenize_preferences(data, self.tokenizer, max_length=self.config.training.max_length)
            write_records(folder / "pairs.parquet", build.pairs, PreferencePair)
            info |= {"pairs": len(build.pairs), "exclusions": build.counts}
        else:
            model = load_model(self.config.policy)
            contents = self._source(self.config, self.folder.path("initial")).refresh(model, version=0, step=0)
            refresh = read_info(folder)
            info |= {"pairs": len(contents.pairs), "exclusions": refresh.exclusions, "verdicts": refresh.verdicts}
            info |= {"generated_tokens": refresh.generated_tokens, "competence": refresh.competence}
            parameters = sum(parameter.numel() for parameter in model.parameters())
            info["flops"] = forward_flops(refresh.generated_tokens + refresh.prompt_tokens, parameters)
        info["seconds"] = {"first pool": time.perf_counter() - started}
        if any(self.config.for_arm(arm).training.probe_steps for arm in self.config.arms):
            info["probe_accuracy"] = self._probe(load_model(self.config.policy) if model is None else model)
        return info

    def _train(self, arm: str) -> dict[str, Any]:
        config = self.config.for_arm(arm)
        pairs = read_records(refresh_folder(self.folder.path("initial"), 0) / "pairs.parquet", PreferencePair)
        is_on_policy = not isinstance(config.pairs, FixedPairSettings) and config.pool.refresh_steps > 0
        info = train_arm(
            config,
            self.folder.path("arms", arm),
            pairs_dataset(pairs),
            self.tokenizer,
            source=self._source(config, self.folder.path("arms", arm)) if is_on_policy else None,
            probe=self._probe if config.training.probe_steps else None,
            probe_at_start=self.folder.info("pool-000")["probe_accuracy"],
            competence=self.folder.info("pool-000").get("competence"),
            evaluate=self._evaluate_suites if self.suites else None,
            progress=self.progress,
        )
        gc.collect()  # a trainer is full of cycles; its weights and optimizer must be gone before the next arm's come
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return info

    def _evaluate(self, arm: str) -> EvaluationResult:
        is_trained = self.config.arms[arm].train
        folder = self.folder.path("arms", arm)
        model = load_trained(self.config, folder) if is_trained else load_model(self.config.policy)
        return self._evaluate_suites(model, folder / "evaluation")

    def _evaluate_suites(self, model: Any, folder: Path) -> EvaluationResult:
        settings = self.config.evaluation
        assert settings is not None
        return evaluate_policy(
            lambda: model,
            self.tokenizer,
            self.suites,
            folder=folder,
            verifier=self.verifier,
            rollouts=self.config.rollouts,
            max_new_tokens=settings.max_new_tokens,
            seed=self.config.seed,
            progress=self.progress,
        )

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _source(self, config: RunConfig, folder: Path) -> OnPolicySource:
        problems = self._load_problems("train")
        return OnPolicySource(config, problems, self.tokenizer, self.verifier, folder, progress=self.progress)

    def _load_problems(self, name: str) -> list[Problem]:
        return read_records(self.folder.path("problems", f"{name}.parquet"), Problem)

    def _probe(self, model: Any) -> float:
        """Return greedy accuracy on the probe problems."""
        result = evaluate_policy(
            lambda: model,
            self.tokenizer,
            {"probe": self._load_problems("probe")},
            folder=None,
            verifier=self.verifier,
            rollouts=self.config.rollouts,
            max_new_tokens=self.config.rollouts.max_new_tokens,
            seed=self.config.seed,
            progress=False,
        )
        return result.average

    def _announce(self, text: str) -> None:
        if self.progress:
            print(f"== {text}", flush=True)

    def _summary(self, results: Mapping[str, EvaluationResult]) -> dict[str, Any]:
        arms, intervals = {}, {}
        for arm, settings in self.config.arms.items():
            arms[arm] = self._arm_summary(arm, settings.train, results.get(arm))
            arms[arm]["at_steps"] = self._milestones(arm) if settings.train else {}
            if arm in results:
                intervals[arm] = self._intervals(results[arm])
        return {
            "name": self.config.name,
            "seed": self.config.seed,
            "arms": arms,
            "intervals": intervals,
            "comparisons": self._comparisons(results),
        }

    def _milestones(self, arm: str) -> dict[str, Any]:
        """What the arm could do, and had cost, after `evaluation.at_steps`."""
        steps = self.config.evaluation.at_steps if self.config.evaluation else ()
        rows = {}
        for step in sorted(set(steps)):
            folder = milestone_folder(self.folder.path("arms", arm), step)
            if (folder / "costs.json").is_file():  # a step beyond the arm's last has none
                accuracies = {name: read_json(folder / f"{name}.json")["accuracy"] for name in self.suites}
                costs = self._costs(read_json(folder / "costs.json"))
                rows[str(step)] = {"average": fmean(accuracies.values()), "suites": accuracies, **costs}
        return rows

    def _costs(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        """Tokens, seconds and operations that making the policy cost: first pool, refreshes, scoring, training."""
        pool = self.folder.info("pool-000")
        seconds = {**trained["seconds"], "first pool": pool["seconds"]["first pool"]}
        return {
            "train_tokens": trained["trained"],
            "scored_tokens": trained["scored"],
            "reference_tokens": trained["reference"],
            "generated_tokens": trained["generated_tokens"] + pool["generated_tokens"],
            "wall_s": sum(seconds[part] for part in ("first pool", "refresh", "training")),  # not measuring it
            "wall_breakdown": seconds,
            "flops": trained["flops"] + pool.get("flops", 0.0),
            "candidate_pairs": trained["candidate_pairs"],
            "kept_pairs": trained["trained_pairs"],
        }

    def _arm_summary(self, arm: str, is_trained: bool, result: EvaluationResult | None) -> dict[str, Any]:
        config = self.config.for_arm(arm)
        trained = self.folder.info(f"arms/{arm}/train") if is_trained else {}
        costs: dict[str, Any] = self._costs(trained) if is_trained else dict(_NO_COSTS, wall_breakdown={})
        if result:
            costs["wall_breakdown"]["evaluation"] = result.seconds
        return {
            "average": result.average if result else None,
            "suites": {name: suite.accuracy for name, suite in result.suites.items()} if result else {},
            **costs,
            "learning_rate": config.training.learning_rate if is_trained else None,
            "steps": config.training.steps if is_trained else 0,
            "refreshes": trained.get("refreshes", 0),
            "exclusions": trained.get("exclusions", {}),
        }

    def _intervals(self, result: EvaluationResult) -> dict[str, Any]:
        values, groups = _by_problem(result)
        average = bootstrap_interval(values, seed=0, groups=groups, resamples=self._resamples)
        suites = {
            name: bootstrap_interval(suite.per_problem, seed=0, resamples=self._resamples)
            for name, suite in result.suites.items()
        }
        return {
            "average": [average.low, average.high],
            "suites": {name: [interval.low, interval.high] for name, interval in suites.items()},
        }

    def _comparisons(self, results: Mapping[str, EvaluationResult]) -> dict[str, Any]:
        """Compare the `sage` arm (else the last one) with every other, paired by problem."""
        if len(results) < 2:
            return {}
        subject = "sage" if "sage" in results else list(results)[-1]
        treatment, groups = _by_problem(results[subject])
        comparisons = {}
        for other in results:
            if other != subject:
                baseline, _ = _by_problem(results[other])
                interval = paired_difference_interval(
                    treatment, baseline, seed=0, groups=groups, resamples=self._resamples
                )
                comparisons[f"{subject}_minus_{other}"] = {
                    "mean": interval.estimate,
                    "low": interval.low,
                    "high": interval.high,
                }
        return comparisons

    @property
    def _resamples(self) -> int:
        return self.config.evaluation.bootstrap_resamples if self.config.evaluation else 2000


_NO_COSTS: dict[str, float] = dict.fromkeys(
    (
        "train_tokens", "scored_tokens", "reference_tokens", "generated_tokens", "wall_s", "flops", "candidate_pairs",
        "kept_pairs",
    ),
    0,
)  # fmt: skip


def _by_problem(result: EvaluationResult) -> tuple[np.ndarray, Sequence[str]]:
    """Return each problem's avg@k over all suites, and the suite it belongs to."""
    values = np.concatenate([np.asarray(suite.per_problem, dtype=np.float64) for suite in result.suites.values()])
    groups = [name for name, suite in result.suites.items() for _ in suite.per_problem]
    return values, groups
