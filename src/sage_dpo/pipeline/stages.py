"""Single stages from files: what `sage-dpo problems`, `rollouts` and `pairs` do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sage_dpo.config import (
    BenchmarkSuiteSettings,
    EvaluationSettings,
    OnPolicyPairSettings,
    PolicySettings,
    RolloutSettings,
    ServerEngineSettings,
)
from sage_dpo.locks import sole_writer
from sage_dpo.pairs import PairBuild, build_pairs, preference_rows
from sage_dpo.pipeline.inputs import agree_on_work
from sage_dpo.pipeline.on_policy import encode_solution
from sage_dpo.pipeline.policies import load_model, load_tokenizer
from sage_dpo.pipeline.sampling import sample_shared
from sage_dpo.pipeline.sources import load_suites
from sage_dpo.problems import deduplicate, load_problems, overlap_report
from sage_dpo.processes import ONE, Processes
from sage_dpo.records import Completion, PreferencePair, Problem, Verdict
from sage_dpo.run_folder import journal_path, journal_paths, lock_path
from sage_dpo.selection.reference import model_fingerprint
from sage_dpo.storage import read_records, write_jsonl, write_records


def check_problems(
    path: Path, *, fields: Mapping[str, str | None], benchmarks: Path | None
) -> tuple[list[Problem], dict[str, Any]]:
    """Validate problems, remove duplicates, and look for the benchmarks' problems among them.

    Args:
        path: the problems.
        fields: other column names.
        benchmarks: folder of the benchmarks' files; `None` looks for none.

    Returns:
        The problems that remain, and `{"problems", "excluded": {reason: count}, "overlap": [...]}`.
    """
    loaded = load_problems(path, fields=fields)
    unique = deduplicate(loaded.problems)
    suites = None
    if benchmarks:
        suites = EvaluationSettings(suites=BenchmarkSuiteSettings(kind="benchmarks", data=str(benchmarks)))
    overlap = overlap_report(unique.problems, load_suites(suites))
    return list(unique.problems), {
        "problems": len(unique.problems),
        "excluded": {**loaded.counts, **unique.counts},
        "overlap": [asdict(row) for row in overlap],
    }


def sample_completions(
    path: Path,
    policy: PolicySettings,
    rollouts: RolloutSettings,
    *,
    fields: Mapping[str, str | None],
    seed: int,
    progress: bool,
    journal: Callable[[int], Path | None] = lambda _: None,
    processes: Processes = ONE,
) -> list[Completion]:
    """Sample completions of the problems in a file; each process keeps its own as they come (`sample_shared`).

    Raises:
        ProcessError: another process has other problems, settings or weights.
    """
    with processes.first_of_machine("the tokenizer's files"):
        tokenizer = load_tokenizer(policy)
    problems = load_problems(path, fields=fields).problems
    is_needed = not isinstance(rollouts.engine, ServerEngineSettings) or rollouts.engine.check_policy
    model = load_model(policy) if is_needed else None
    fingerprint = "" if model is None else model_fingerprint(model)
    agree_on_work(processes, problems={"problems": problems}, policy=fingerprint, rollouts=rollouts, seed=seed)
    return sample_shared(
        processes,
        problems,
        rollouts,
        model=model,
        tokenizer=tokenizer,
        seed=seed,
        progress=progress,
        journal=journal,
        policy=fingerprint,
    )[0]


def sample_to_file(
    output: Path, sample: Callable[..., list[Completion]], *, processes: Processes = ONE
) -> list[Completion]:
    """Write what all processes have sampled; until then each keeps its own beside the file.

    Args:
        output: file.
        sample: `sample_completions` of something; is called with its `journal` and `processes`.
        processes: that sample.

    Raises:
        RunFolderError: another job samples into the same file.
    """
    with sole_writer(output, lock_path(output), is_kept=False) if processes.is_main else nullcontext():
        completions = sample(journal=partial(journal_path, output), processes=processes)
        if processes.is_main:
            write_records(output, completions, Completion)
        processes.wait()  # until then each keeps its part
        for part in {journal_path(output, processes.index), *(journal_paths(output) if processes.is_main else ())}:
            part.unlink(missing_ok=True)
        processes.wait()  # until then the main one keeps others away
    return completions


def combine_completions(
    path: Path,
    completions: Path,
    verdicts: Path,
    policy: PolicySettings,
    settings: OnPolicyPairSettings,
    *,
    fields: Mapping[str, str | None],
    max_length: int | None,
    seed: int,
) -> PairBuild:
    """Combine correct and wrong completions of the problems in a file into preference pairs."""
    problems = load_problems(path, fields=fields).problems
    tokenizer = load_tokenizer(policy)
    return build_pairs(
        problems,
        read_records(completions, Completion),
        read_records(verdicts, Verdict),
        settings=settings,
        seed=seed,
        policy_version=0,
        max_length=max_length,
        eos_token_id=tokenizer.eos_token_id,
        reference=partial(encode_solution, tokenizer),
    )


def write_pairs(path: Path, pairs: Sequence[PreferencePair], policy: PolicySettings) -> int:
    """Write pairs as records (`.parquet`) or as text in TRL's format (`.jsonl`).

    Returns:
        How many become other tokens when their text is read again; records keep the tokens.
    """
    if path.suffix != ".jsonl":
        write_records(path, pairs, PreferencePair)
        return 0
    rows, changed = preference_rows(pairs, load_tokenizer(policy))
    write_jsonl(path, rows)
    return changed
