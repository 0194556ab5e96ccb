"""Where a recipe's problems and suites come from: the gym, everyday questions, or files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sage_dpo.config import (
    EvaluationSettings,
    EverydayProblemSettings,
    EverydaySuiteSettings,
    FileProblemSettings,
    FileSuiteSettings,
    GymProblemSettings,
    GymSuiteSettings,
    HeldOutProblemSettings,
    ProblemFileSettings,
    ProblemSettings,
    RunConfig,
)
from sage_dpo.errors import ConfigError
from sage_dpo.records import Problem, problems_sha256


class LoadedProblems(NamedTuple):
    """Problems as they are used, what was excluded by reason, and a hash of what remained."""

    problems: list[Problem]
    excluded: dict[str, int]
    digest: str


def load_recipe_problems(config: RunConfig) -> dict[str, LoadedProblems]:
    """Return a recipe's problems: `train`, and `probe` if it has any.

    Raises:
        ConfigError: nothing is left to train on beside what is held out.
    """
    sources = {"train": config.problems, "probe": config.probe}
    held_out = sources.pop("probe") if isinstance(config.probe, HeldOutProblemSettings) else None
    loaded = {
        name: load_problem_source(source, seed=config.seed)  # type: ignore[arg-type]
        for name, source in sources.items()
        if source is not None
    }
    if isinstance(held_out, HeldOutProblemSettings):
        train, excluded, _ = loaded["train"]
        if held_out.count >= len(train):
            raise ConfigError(
                f"probe.count is {held_out.count:,}, and there are {len(train):,} problems in all; lower it, so that "
                "some are left to train on"
            )
        chosen = {problem.id for problem in drawn(train, config.seed)[: held_out.count]}
        loaded["train"] = _loaded([problem for problem in train if problem.id not in chosen], excluded)
        loaded["probe"] = _loaded([problem for problem in train if problem.id in chosen], {})
    return loaded


def load_problem_source(source: ProblemSettings, *, seed: int) -> LoadedProblems:
    """Return the problems of one section of a recipe."""
    if isinstance(source, GymProblemSettings):
        from sage_dpo.gym.world import generate_problems

        return _loaded(generate_problems(source.split, source.count, seed=seed, track=source.track), {})
    if isinstance(source, EverydayProblemSettings):
        from sage_dpo.everyday.world import generate_problems as everyday_problems

        return _loaded(everyday_problems(source.split, source.count, seed=seed), {})
    if isinstance(source, FileProblemSettings):
        return _loaded(*_read(source))
    from sage_dpo.problems import deduplicate

    excluded: Counter[str] = Counter()
    everything: list[Problem] = []
    for name, file in source.files.items():
        problems, counts = _read(file)
        everything += [replace(problem, id=f"{name}/{problem.id}") for problem in problems]
        excluded.update(counts)
    unique = deduplicate(everything)
    excluded.update(unique.counts)
    return _loaded(drawn(unique.problems, seed), dict(excluded))


def drawn(problems: Sequence[Problem], seed: int) -> list[Problem]:
    """Return the problems in an order drawn by the seed, in which one problem more or less moves no other."""
    return sorted(problems, key=lambda problem: hashlib.sha256(f"{seed}/{problem.id}".encode()).digest())


def _read(file: ProblemFileSettings) -> tuple[list[Problem], dict[str, int]]:
    """Return the problems of one file without duplicates, the first so many, and what was excluded."""
    from sage_dpo.problems import deduplicate, load_problems

    loaded = load_problems(file.path, fields=file.fields)
    unique = deduplicate(loaded.problems)
    return list(unique.problems)[: file.limit], {**loaded.counts, **unique.counts}


def _loaded(problems: list[Problem], excluded: dict[str, int]) -> LoadedProblems:
    return LoadedProblems(problems, excluded, problems_sha256(problems))


def load_suites(settings: EvaluationSettings | None) -> dict[str, list[Problem]]:
    """Return the evaluation suites by name; sizes are checked where they are loaded.

    Raises:
        ConfigError: an unknown suite name, or a file under a benchmark's name.
        SuiteSizeError: a suite has another size than its record states.
    """
    if settings is None:
        return {}
    source = settings.suites
    names = suite_names(settings)
    if isinstance(source, FileSuiteSettings):
        from sage_dpo.problems import load_problems

        return {name: load_problems(f.path, fields=f.fields).problems[: f.limit] for name, f in source.files.items()}
    if isinstance(source, GymSuiteSettings):
        from sage_dpo.gym.suites import load_suite

        return {name: load_suite(name, source.track) for name in names}
    if isinstance(source, EverydaySuiteSettings):
        from sage_dpo.everyday.suites import load_suite as everyday_suite

        return {name: everyday_suite(name) for name in names}
    from sage_dpo.evaluation import load_benchmark

    folder = Path(source.data) if source.data else None
    return {name: load_benchmark(name, folder) for name in names}


def suites_by_name(names: str, data: Path | None, fields: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """Return the settings of suites as they are named on the command line.

    Args:
        names: `all` (benchmarks), `gym`, `gym-hard` (its hard track), `everyday`, names of any of these, or `name=path`
            of any files, separated by commas.
        data: folder of the benchmarks' files.
        fields: which columns of the files hold what.

    Raises:
        ConfigError: files beside names, or `fields` without files.
    """
    from sage_dpo.everyday.suites import SUITES
    from sage_dpo.gym.suites import suites_of
    from sage_dpo.gym.world import HARD, STANDARD

    chosen = names.split(",")
    files = dict(item.split("=", 1) for item in chosen if "=" in item)
    if files and len(files) < len(chosen):
        raise ConfigError(f"--suites is {names!r}; name files (name=path) or suites, not both")
    if files:
        return {
            "kind": "files",
            "files": {name: {"path": path, "fields": fields or {}} for name, path in files.items()},
        }
    if fields:
        raise ConfigError("--field names columns of problem files; give them as --suites name=path")
    if names in ("gym", "gym-hard"):
        return {"kind": "gym", "names": "all", "track": HARD if names == "gym-hard" else STANDARD}
    if set(chosen) <= set(suites_of(STANDARD)):
        return {"kind": "gym", "names": chosen}
    if names == "everyday" or set(chosen) <= set(SUITES):
        return {"kind": "everyday", "names": "all" if names == "everyday" else chosen}
    return {"kind": "benchmarks", "names": "all" if names == "all" else chosen, "data": str(data) if data else None}


def suite_names(settings: EvaluationSettings) -> list[str]:
    """Return the names of the evaluation suites, without loading them.

    Raises:
        ConfigError: an unknown suite name, or a file under a benchmark's name.
    """
    from sage_dpo.evaluation import BENCHMARKS
    from sage_dpo.everyday.suites import SUITES
    from sage_dpo.gym.suites import suites_of

    source = settings.suites
    if isinstance(source, FileSuiteSettings):
        taken = sorted(set(source.files) & {*BENCHMARKS, "costs"})  # costs.json stands beside the results
        if taken:
            raise ConfigError(f"evaluation.suites.files: the names {taken} mean something else; choose others")
        return list(source.files)
    known: Iterable[str] = BENCHMARKS
    if isinstance(source, GymSuiteSettings):
        known = suites_of(source.track)
    elif isinstance(source, EverydaySuiteSettings):
        known = SUITES
    names = list(known) if source.names == "all" else source.names
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ConfigError(f"unknown suites {unknown}, expected some of {', '.join(known)}, or all")
    return names
