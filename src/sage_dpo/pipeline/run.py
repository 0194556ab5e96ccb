"""The order of the stages, from a recipe to a report.

    problems -> rollouts -> verdicts -> pairs -> (pool -> scores -> selection -> DPO step)* -> evaluation -> report

Every stage is recorded in the run folder's manifest when it is complete; running the same recipe again continues
where the last run ended. All arms start from the same policy and the same first pool.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from sage_dpo.config import FixedPairSettings, RunConfig, ServerEngineSettings, dump_config
from sage_dpo.core.flops import forward_flops
from sage_dpo.costs import Costs
from sage_dpo.evaluation import EvaluationResult, evaluate_policy
from sage_dpo.inputs import library_versions
from sage_dpo.manifest import Manifest, discard, locked
from sage_dpo.pairs import load_preference_data, tokenize_preferences
from sage_dpo.pipeline.arms import train_arm, trainer_arguments
from sage_dpo.pipeline.best import keep_policies
from sage_dpo.pipeline.grading import per_process
from sage_dpo.pipeline.inputs import SAME_FOR_ALL, policy_inputs, run_inputs
from sage_dpo.pipeline.on_policy import OnPolicySource, pairs_dataset, read_info
from sage_dpo.pipeline.policies import count_parameters, load_model, load_tokenizer, load_trained, release_memory
from sage_dpo.pipeline.shared_manifest import SharedManifest
from sage_dpo.pipeline.sources import load_recipe_problems, load_suites
from sage_dpo.pipeline.summary import summarize
from sage_dpo.pipeline.whole_policy import check_saved
from sage_dpo.problems.overlap import overlap_report
from sage_dpo.processes import Processes, start_processes
from sage_dpo.records import PreferencePair, Problem
from sage_dpo.report import write_report
from sage_dpo.run_folder import FIRST_POOL, FIRST_PROBE, PoolFolder, RunFolder, SuitesFolder
from sage_dpo.storage import read_records, write_json, write_records
from sage_dpo.training.resume import rows_sha256
from sage_dpo.verification import Verifier


def run(
    config: RunConfig,
    *,
    output: str | Path | None = None,
    fresh: bool = False,
    accepted: Sequence[str] = (),
    progress: bool = True,
) -> Path:
    """Run a recipe from start to report, continuing an interrupted run of the same recipe.

    Under a launcher every process calls this; they share the work, and the main one writes.

    Args:
        config: validated recipe.
        output: run folder; default `<output_dir>/<name>`.
        fresh: delete the folder first.
        accepted: what may differ from the run that is continued, as `versions.torch`, `machine.threads` or `policy`.
        progress: show progress bars.

    Returns:
        The run folder, with `summary.json` and `report/index.html`.

    Raises:
        SageError: with the remedy in the message.
    """
    processes = start_processes()
    for arm in config.arms:  # a wrong key must not surface after an hour of rollouts
        if config.arms[arm].train:
            own = config.for_arm(arm)
            check_saved(own, trainer_arguments(own, Path("unused"), progress=False, processes=processes.count))
    folder = RunFolder(Path(output) if output else Path(config.output_dir) / config.name)
    # the first one fetches or converts, the others find what it has left
    with processes.first_of_machine("files of suites and tokenizer"):
        tokenizer, suites = load_tokenizer(config.policy), load_suites(config.evaluation)
    inputs = run_inputs(config, suites, processes=processes.count)
    check_same_inputs(processes, config, inputs)
    with Verifier(**per_process(config.verification, processes).model_dump()) as verifier:
        if fresh and folder.root.exists() and processes.is_main:  # only now that all else is known to be in order
            discard(folder.root)
        with locked(folder.root) if processes.is_main else contextlib.nullcontext():
            manifest = SharedManifest(processes, lambda: Manifest(folder, dump_config(config), inputs, accepted))
            processes.require_shared(folder.manifest)
            shown = progress and processes.is_main
            with processes.naming_the_absent("its part of training"):
                _Stages(config, folder, manifest, tokenizer, suites, verifier, shown, processes).execute()
            processes.wait("report")
    return folder.root


def check_same_inputs(processes: Processes, config: RunConfig, inputs: Mapping[str, Any]) -> None:
    """Raise where another process has another recipe, other versions or other files; the machine may be another.

    Raises:
        ProcessError: names what differs.
    """
    same = {name: value for name, value in inputs.items() if name != "machine"}
    recipe = hashlib.sha256(dump_config(config).encode()).hexdigest()
    processes.agree(
        "what the run starts from",
        {"recipe": recipe, "versions": library_versions(), **same},
        remedy=SAME_FOR_ALL,
    )


@dataclass(frozen=True)
class _Stages:
    """The stages of one run, and what is loaded once and handed from stage to stage."""

    config: RunConfig
    folder: RunFolder
    manifest: SharedManifest
    tokenizer: Any
    suites: dict[str, list[Problem]]
    verifier: Verifier
    progress: bool
    processes: Processes

    def execute(self) -> None:
        pool = self.folder.first_pool
        problems = functools.partial(self.processes.on_main, self._problems, "problems")
        self.manifest.stage("problems", problems, [self.folder.problems("train").parent])
        untuned = functools.cache(lambda: load_model(self.config.policy))
        files = [pool.completions, pool.verdicts, pool.pairs]
        self.manifest.stage(FIRST_POOL, lambda: self._first_pool(untuned), files)
        if any(self.config.for_arm(arm).training.probe_steps for arm in self.config.arms):
            self.manifest.stage(FIRST_PROBE, lambda: {"accuracy": self._probe(untuned())})
        untuned.cache_clear()
        results = {}
        for name, settings in self.config.arms.items():
            self._announce(f"arm {name}")
            self.manifest.check(lambda: {"policy": policy_inputs(self.config.policy)})  # all start from the same one
            if settings.train:
                stage = self.folder.arm(name).stage
                if not self.config.for_arm(name).training.save_steps and not self.manifest.is_complete(stage):
                    self._announce("no checkpoints (training.save_steps: 0): an interruption costs this arm, no other")
                made = [self.folder.arm(name).policy, self.folder.arm(name).metrics]
                self.manifest.stage(stage, lambda name=name: self._train(name), made)  # type: ignore[misc]
            if self.suites:
                results[name] = self._evaluate(name)
                if settings.train and self.config.evaluation and self.config.evaluation.at_best:
                    self._evaluate_best(name)
        if self.processes.is_main:
            write_json(self.folder.summary, summarize(self.config, self.folder, results))
            write_report(self.folder.root)

    def _problems(self) -> dict[str, Any]:
        info: dict[str, Any] = {}
        for name, (problems, excluded, digest) in load_recipe_problems(self.config).items():
            write_records(self.folder.problems(name), problems, Problem)
            self.manifest.record_data(f"problems/{name}", digest)
            overlap = [asdict(row) for row in overlap_report(problems, self.suites)]
            info[name] = {"count": len(problems), "excluded": excluded, "overlap": len(overlap)}
            if overlap:
                write_json(self.folder.overlap(name), overlap)
                self._announce(f"{len(overlap)} {name} problems overlap the evaluation suites, see problems/")
        return info

    def _first_pool(self, untuned: Callable[[], Any]) -> dict[str, Any]:
        self._announce("first pool")
        if isinstance(self.config.pairs, FixedPairSettings):
            fixed = self.config.pairs
            costs, info = self.processes.on_main(lambda: self._fixed_pool(fixed), "pairs of the first pool")
        else:
            engine = self.config.rollouts.engine
            is_needed = not isinstance(engine, ServerEngineSettings) or engine.check_policy
            costs, info = self._sampled_pool(untuned() if is_needed else None)
        return {**info, "costs": costs.as_dict()}

    def _fixed_pool(self, fixed: FixedPairSettings) -> tuple[Costs, dict[str, Any]]:
        started = time.perf_counter()
        data = load_preference_data(fixed.path, **fixed.model_dump(exclude={"kind", "path"}))
        build = tokenize_preferences(
            data, self.tokenizer, max_length=self.config.training.max_length, progress=self.progress
        )
        write_records(self.folder.first_pool.pairs, build.pairs, PreferencePair)
        seconds = time.perf_counter() - started
        costs = Costs(wall_s=seconds, wall_breakdown={FIRST_POOL: seconds})
        return costs, {"pairs": len(build.pairs), "exclusions": build.counts}

    def _sampled_pool(self, model: Any) -> tuple[Costs, dict[str, Any]]:
        pairs = self._source(self.config, lambda _: self.folder.first_pool).refresh(model, version=0, step=0).pairs
        made = read_info(self.folder.first_pool)
        flops = forward_flops(made.generated_tokens + made.prompt_tokens, count_parameters(self.config.policy))
        info = {"pairs": len(pairs), "exclusions": made.exclusions, "verdicts": made.verdicts}
        costs = Costs(
            generated_tokens=made.generated_tokens,
            flops=flops,
            wall_s=made.seconds,
            wall_breakdown={FIRST_POOL: made.seconds},
        )
        return costs, {**info, "competence": made.competence}

    def _train(self, arm: str) -> dict[str, Any]:
        config, folder = self.config.for_arm(arm), self.folder.arm(arm)
        is_on_policy = not isinstance(config.pairs, FixedPairSettings) and config.pool.refresh_steps > 0
        first_pool = self.manifest.info(FIRST_POOL)
        info = train_arm(
            config,
            folder,
            self._first_pairs(),
            self.tokenizer,
            source=self._source(config, folder.refresh) if is_on_policy else None,
            probe=self._probe if config.training.probe_steps else None,
            probe_at_start=self.manifest.info(FIRST_PROBE)["accuracy"] if config.training.probe_steps else None,
            competence=first_pool.get("competence"),
            evaluate=self._run_suites if self.suites else None,
            accepted=self.manifest.accepted,
            progress=self.progress,
            processes=self.processes,
        )
        release_memory()
        return info

    def _first_pairs(self) -> Dataset:
        """Return pool version 0, which all processes have alike."""
        pairs = pairs_dataset(read_records(self.folder.first_pool.pairs, PreferencePair))
        values = {"pairs": len(pairs), "sha256": rows_sha256(pairs)}
        remedy = f"see that {self.folder.first_pool.pairs} is the same file for all"
        self.processes.agree("the first pool", values, remedy=remedy)
        return pairs

    def _evaluate(self, arm: str) -> EvaluationResult:
        folder, policy = self.folder.arm(arm), self.config.policy
        model = load_trained(policy, folder.policy) if self.config.arms[arm].train else load_model(policy)
        return self._run_suites(model, folder.evaluation)

    def _evaluate_best(self, arm: str) -> None:
        """Run the suites on the policy of the best probe; that of the last step has been run on them."""
        folder, trained = self.folder.arm(arm), self.manifest.info(self.folder.arm(arm).stage)
        step = trained["best"]["step"]
        is_last = step == trained["steps"]
        if self.processes.is_main:
            keep_policies(folder, () if is_last else (step,))
        if not is_last:
            self._run_suites(load_trained(self.config.policy, folder.best_policy(step)), folder.best)

    def _run_suites(self, model: Any, folder: SuitesFolder) -> EvaluationResult:
        settings = self.config.evaluation
        assert settings is not None
        return self._answers(model, self.suites, settings.max_new_tokens, folder)

    def _probe(self, model: Any) -> float:
        """Return greedy accuracy on the probe problems."""
        suites = {"probe": self._read_problems("probe")}
        return self._answers(model, suites, self.config.rollouts.max_new_tokens, None).average

    def _answers(
        self, model: Any, suites: dict[str, list[Problem]], max_new_tokens: int, folder: SuitesFolder | None
    ) -> EvaluationResult:
        """Sample and grade."""
        return evaluate_policy(
            lambda: model,
            self.tokenizer,
            suites,
            folder=folder.root if folder else None,
            verifier=self.verifier,
            rollouts=self.config.rollouts,
            max_new_tokens=max_new_tokens,
            seed=self.config.seed,
            progress=self.progress,
            processes=self.processes,
        )

    def _source(self, config: RunConfig, folder: Callable[[int], PoolFolder]) -> OnPolicySource:
        problems = self._read_problems("train")
        return OnPolicySource(
            config,
            problems,
            self.tokenizer,
            self.verifier,
            folder,
            progress=self.progress,
            processes=self.processes,
        )

    def _read_problems(self, name: str) -> list[Problem]:
        return read_records(self.folder.problems(name), Problem)

    def _announce(self, text: str) -> None:
        if self.progress:
            print(f"== {text}", flush=True)
