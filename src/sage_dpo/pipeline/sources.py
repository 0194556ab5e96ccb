"""Where a recipe's problems and suites come from: the gym or files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sage_dpo.config import EvaluationSettings, GymProblemSettings, GymSuiteSettings, ProblemSettings
from sage_dpo.errors import ConfigError
from sage_dpo.records import Problem


def load_problem_source(source: ProblemSettings, *, seed: int) -> tuple[list[Problem], dict[str, int], str]:
    """Return a recipe's problems, what was excluded by reason, and a hash of what remained."""
    excluded: dict[str, int] = {}
    if isinstance(source, GymProblemSettings):
        from sage_dpo.gym.world import generate_problems

        problems = generate_problems(source.split, source.count, seed=seed, track=source.track)
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
    names = suite_names(settings)
    if isinstance(source, GymSuiteSettings):
        from sage_dpo.gym.suites import load_suite

        return {name: load_suite(name, source.track) for name in names}
    from sage_dpo.evaluation import load_benchmark

    folder = Path(source.data) if source.data else None
    return {name: load_benchmark(name, folder) for name in names}


def suites_by_name(names: str, data: Path | None) -> dict[str, Any]:
    """Return the settings of suites as they are named on the command line.

    Args:
        names: `all` (benchmarks), `gym`, `gym-hard` (its hard track), or names of either separated by commas.
        data: folder of the benchmarks' files.
    """
    from sage_dpo.gym.suites import suites_of
    from sage_dpo.gym.world import HARD, STANDARD

    chosen = names.split(",")
    if names in ("gym", "gym-hard"):
        return {"kind": "gym", "names": "all", "track": HARD if names == "gym-hard" else STANDARD}
    if set(chosen) <= set(suites_of(STANDARD)):
        return {"kind": "gym", "names": chosen}
    return {"kind": "benchmarks", "names": "all" if names == "all" else chosen, "data": str(data) if data else None}


def suite_names(settings: EvaluationSettings) -> list[str]:
    """Return the names of the evaluation suites, without loading them.

    Raises:
        ConfigError: an unknown suite name.
    """
    source = settings.suites
    known: Iterable[str]
    if isinstance(source, GymSuiteSettings):
        from sage_dpo.gym.suites import suites_of

        known = suites_of(source.track)
    else:
        from sage_dpo.evaluation import BENCHMARKS as known
    names = list(known) if source.names == "all" else source.names
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ConfigError(f"unknown suites {unknown}, expected some of {', '.join(known)}, or all")
    return names
