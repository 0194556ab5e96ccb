"""Evaluating one policy on named suites: what `sage-dpo evaluate` does."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sage_dpo.config import EvaluationSettings, PolicySettings, RolloutSettings, VerificationSettings
from sage_dpo.core.statistics import bootstrap_interval
from sage_dpo.evaluation import evaluate_policy
from sage_dpo.locks import sole_writer
from sage_dpo.pipeline.grading import per_process
from sage_dpo.pipeline.inputs import agree_on_work, policy_inputs
from sage_dpo.pipeline.policies import load_model, load_tokenizer
from sage_dpo.pipeline.sources import load_suites
from sage_dpo.processes import start_processes
from sage_dpo.rules import verdict_counts
from sage_dpo.run_folder import SuitesFolder
from sage_dpo.verification import Verifier


def evaluate_model(
    policy: PolicySettings,
    evaluation: EvaluationSettings,
    rollouts: RolloutSettings,
    verification: VerificationSettings,
    *,
    folder: Path | None,
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """Evaluate a policy, on all processes that the launcher has started.

    Args:
        policy: the model.
        evaluation: suites and completion token limit.
        rollouts: prompt template, system prompt and batch size are used.
        verification: how answers are checked.
        folder: where completions and verdicts go, and are read back from; `None` keeps none.
        seed: for the suites that are sampled (avg@k).
        progress: show progress bars.

    Returns:
        `{"average", "suites": {name: {"accuracy", "interval", "size", "verdicts"}}, "seconds"}`

    Raises:
        ProcessError: another process has other problems, settings or weights.
        RunFolderError: another job writes into the folder.
    """
    processes = start_processes()
    with processes.first_of_machine("files of suites and tokenizer"):
        problems, tokenizer = load_suites(evaluation), load_tokenizer(policy)
    weights = policy_inputs(policy) if processes.count > 1 else {}
    agree_on_work(processes, problems=problems, policy=weights, rollouts=rollouts, evaluation=evaluation, seed=seed)
    with (
        sole_writer(folder, SuitesFolder(folder).lock) if folder and processes.is_main else nullcontext(),
        Verifier(**per_process(verification, processes).model_dump()) as verifier,
    ):
        result = evaluate_policy(
            lambda: load_model(policy),
            tokenizer,
            problems,
            folder=folder,
            verifier=verifier,
            rollouts=rollouts,
            max_new_tokens=evaluation.max_new_tokens,
            seed=seed,
            progress=progress and processes.is_main,
            processes=processes,
        )
    report = {}
    for name, suite in result.suites.items():
        interval = bootstrap_interval(suite.per_problem, seed=0, resamples=evaluation.bootstrap_resamples)
        report[name] = {
            "accuracy": suite.accuracy,
            "interval": [interval.low, interval.high],
            "size": len(suite.per_problem),
            "verdicts": verdict_counts(suite.verdicts),
        }
    return {"average": result.average, "suites": report, "seconds": result.seconds}
