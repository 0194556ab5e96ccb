"""Evaluating one policy on named suites: what `sage-dpo evaluate` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_dpo.config import (
    BenchmarkSuiteSettings,
    EvaluationSettings,
    GymSuiteSettings,
    PolicySettings,
    RolloutSettings,
    validate,
)
from sage_dpo.core.statistics import bootstrap_interval
from sage_dpo.evaluation import evaluate_policy
from sage_dpo.gym.suites import SUITES
from sage_dpo.pipeline.policies import load_model, load_tokenizer
from sage_dpo.pipeline.sources import load_suites
from sage_dpo.rules import verdict_counts
from sage_dpo.verification import Verifier


def evaluate_model(
    model: str,
    suites: str,
    *,
    data: Path | None,
    folder: Path | None,
    rollouts: Mapping[str, Any],
    max_new_tokens: int,
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """Evaluate a policy.

    Args:
        model: folder, hub id or `gym:S`.
        suites: `all` (benchmarks), `gym`, or names of either separated by commas.
        data: folder of the benchmark files.
        folder: where completions and verdicts go; `None` keeps none.
        rollouts: fields of `RolloutSettings` other than sampling ones.
        max_new_tokens: completion token limit.
        seed: for the suites that are sampled (avg@k).
        progress: show progress bars.

    Returns:
        `{"average", "suites": {name: {"accuracy", "interval", "size", "verdicts"}}, "seconds"}`
    """
    policy = PolicySettings(path=model)
    problems = load_suites(_settings(suites, data))
    tokenizer = load_tokenizer(policy)
    with Verifier() as verifier:
        result = evaluate_policy(
            lambda: load_model(policy),
            tokenizer,
            problems,
            folder=folder,
            verifier=verifier,
            rollouts=validate(RolloutSettings, rollouts),
            max_new_tokens=max_new_tokens,
            seed=seed,
            progress=progress,
        )
    report = {}
    for name, suite in result.suites.items():
        interval = bootstrap_interval(suite.per_problem, seed=0)
        report[name] = {
            "accuracy": suite.accuracy,
            "interval": [interval.low, interval.high],
            "size": len(suite.per_problem),
            "verdicts": verdict_counts(suite.verdicts),
        }
    return {"average": result.average, "suites": report, "seconds": result.seconds}


def _settings(suites: str, data: Path | None) -> EvaluationSettings:
    names = suites.split(",")
    if suites == "gym" or set(names) <= set(SUITES):
        return EvaluationSettings(suites=GymSuiteSettings(kind="gym", names="all" if suites == "gym" else names))
    selected: Any = "all" if suites == "all" else names
    return EvaluationSettings(
        suites=BenchmarkSuiteSettings(kind="benchmarks", names=selected, data=str(data) if data else None)
    )
