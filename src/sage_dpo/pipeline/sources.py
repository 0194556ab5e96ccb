"""Where a recipe's problems and suites come from: the gym or files."""

from __future__ import annotations

import hashlib
from typing import Any

from sage_dpo.config import EvaluationSettings, GymProblems, GymSuites, ProblemSource
from sage_dpo.errors import ConfigError
from sage_dpo.records import Problem


def load_problem_source(source: ProblemSource, *, seed: int) -> tuple[list[Problem], dict[str, int], str]:
    """Return a recipe's problems, what was excluded by reason, and a hash of what remained."""
    excluded: dict[str, int] = {}
    if isinstance(source, GymProblems):
        from sage_dpo.gym.world import generate_problems

        problems = generate_problems(source.split, source.count, seed=seed)
    else:
        from sage_dpo.problems import deduplicate, load_problems

        loaded = load_problems(source.path, fields=source.fields)
        unique = deduplicate(loaded.problems)
        problems, excluded = list(unique.problems), {**loaded.counts, **unique.counts}
        problems = problems[: source.limit]
    digest = hashlib.sha256("\n".join(f"{p.id}\t{p.problem}\t{p.answer}" for p in problems).encode()).hexdigest()
    return problems, excluded, digest


def load_suites(settings: EvaluationSettings | None) -> dict[str, list[Problem]]:
    """Return the evaluation suites by name; sizes are checked where they are loaded.

    Raises:
        ConfigError: an unknown suite name.
        SuiteSizeError: a suite has another size than its record states.
    """
    if settings is None:
        return {}
    source = settings.suites
    load: Any
    if isinstance(source, GymSuites):
        from sage_dpo.gym.suites import SUITES, load_suite

        known, load = list(SUITES), load_suite
    else:
        from pathlib import Path

        from sage_dpo.evaluation import BENCHMARKS, load_benchmark

        folder = Path(source.data) if source.data else None
        known, load = list(BENCHMARKS), lambda name: load_benchmark(name, folder)
    names = known if source.names == "all" else source.names
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ConfigError(f"unknown suites {unknown}, expected some of {', '.join(known)}, or all")
    return {name: load(name) for name in names}
