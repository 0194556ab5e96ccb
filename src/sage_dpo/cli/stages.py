"""Commands of single stages, from files to files. Each takes the sections of a recipe that it needs."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sage_dpo.cli.options import (
    LOCAL,
    BatchSize,
    FieldMap,
    JsonPath,
    ModelPath,
    ProblemsPath,
    PromptTemplate,
    Quiet,
    Seed,
    StageOverrides,
    SystemPrompt,
    parse_fields,
    read_settings,
    require_suffix,
    resumable,
    setting,
    write_result,
)
from sage_dpo.config import (
    OnPolicyPairSettings,
    PolicySettings,
    RolloutSettings,
    ServerEngineSettings,
    TrainingSettings,
    VerificationSettings,
)


def problems(
    input_: Annotated[Path, typer.Option("--input", help="JSONL, Parquet or a saved datasets folder.")],
    output: Annotated[Path | None, typer.Option(help="Write the accepted problems as Parquet.")] = None,
    data: Annotated[Path | None, typer.Option(help="Benchmark folder to report overlap with.")] = None,
    field: FieldMap = None,
    json_path: JsonPath = None,
) -> None:
    """Validate problems, remove duplicates, report overlap with the evaluation suites."""
    require_suffix(output, ".parquet")
    fields = parse_fields(field)
    from sage_dpo.pipeline.stages import check_problems
    from sage_dpo.records import Problem
    from sage_dpo.storage import write_records

    accepted, result = check_problems(input_, fields=fields, benchmarks=data)
    overlaps = len(result["overlap"])
    print(f"{result['problems']} problems; excluded {result['excluded'] or 'none'}; {overlaps} overlaps")
    if output:
        write_records(output, accepted, Problem)
    write_result(json_path, result)


def rollouts(
    model: ModelPath,
    problems_path: ProblemsPath,
    output: Annotated[Path, typer.Option(help="Completions as Parquet.")],
    samples: Annotated[int | None, setting(RolloutSettings, "samples")] = None,
    temperature: Annotated[float | None, setting(RolloutSettings, "temperature")] = None,
    top_p: Annotated[float | None, setting(RolloutSettings, "top_p")] = None,
    top_k: Annotated[int | None, setting(RolloutSettings, "top_k")] = None,
    max_new_tokens: Annotated[int | None, setting(RolloutSettings, "max_new_tokens")] = None,
    batch_size: BatchSize = None,
    server: Annotated[
        list[str] | None,
        typer.Option(help="Address of a vLLM or SGLang server that holds the policy and samples. Can be repeated."),
    ] = None,
    server_model: Annotated[str | None, setting(ServerEngineSettings, "model")] = None,
    prompt_template: PromptTemplate = None,
    system_prompt: SystemPrompt = None,
    seed: Seed = None,
    set_: StageOverrides = None,
    field: FieldMap = None,
    quiet: Quiet = False,
) -> None:
    """Sample completions from a policy, in this process or on servers."""
    given = {
        "seed": seed,
        "policy.path": model,
        "rollouts.samples": samples,
        "rollouts.temperature": temperature,
        "rollouts.top_p": top_p,
        "rollouts.top_k": top_k,
        "rollouts.max_new_tokens": max_new_tokens,
        "rollouts.engine.kind": "server" if server else None,
        "rollouts.engine.base_url": server or None,
        "rollouts.engine.model": server_model,
        "rollouts.engine.batch_size": batch_size,
        "rollouts.prompt_template": prompt_template,
        "rollouts.system_prompt": system_prompt,
    }
    chosen = read_settings(given, set_, defaults=LOCAL, policy=PolicySettings, rollouts=RolloutSettings)
    require_suffix(output, ".parquet")
    fields = parse_fields(field)
    from sage_dpo.pipeline.stages import sample_completions, sample_to_file
    from sage_dpo.processes import start_processes

    with resumable():
        sample = partial(
            sample_completions,
            problems_path,
            chosen.policy,
            chosen.rollouts,
            fields=fields,
            seed=chosen.seed,
            progress=not quiet,
        )
        completions = sample_to_file(output, sample, processes=start_processes())
    asked = len({completion.problem_id for completion in completions})
    finished = Counter(str(completion.finish_reason) for completion in completions)
    print(f"{len(completions)} completions of {asked} problems, {dict(finished)}: {output}")


def verify(
    problems_path: ProblemsPath,
    completions: Annotated[
        str,
        typer.Option(help="Parquet of `rollouts`, JSONL of problem_id and completion, or a column of the problems."),
    ],
    output: Annotated[Path | None, typer.Option(help="Verdicts as Parquet.")] = None,
    workers: Annotated[int | None, setting(VerificationSettings, "workers")] = None,
    soft_timeout_s: Annotated[float | None, setting(VerificationSettings, "soft_timeout_s")] = None,
    hard_timeout_s: Annotated[float | None, setting(VerificationSettings, "hard_timeout_s")] = None,
    as_written: Annotated[
        bool, typer.Option("--as-written", help="Do not restore the `#### answer` line of reference solutions.")
    ] = False,
    set_: StageOverrides = None,
    field: FieldMap = None,
    json_path: JsonPath = None,
    quiet: Quiet = False,
) -> None:
    """Grade completions against gold answers."""
    given = {
        "verification.workers": workers,
        "verification.soft_timeout_s": soft_timeout_s,
        "verification.hard_timeout_s": hard_timeout_s,
    }
    chosen = read_settings(given, set_, verification=VerificationSettings)
    require_suffix(output, ".parquet")
    fields = parse_fields(field)
    from sage_dpo.pipeline.grading import grade
    from sage_dpo.records import Verdict
    from sage_dpo.storage import write_records

    grades = grade(
        problems_path,
        completions,
        chosen.verification,
        fields=fields,
        restore_answer_line=not as_written,
        progress=not quiet,
    )
    if output:
        write_records(output, grades.verdicts, Verdict)
    total = sum(grades.counts.values())
    print(", ".join(f"{kind} {count} ({100 * count / total:.2f} %)" for kind, count in grades.counts.items() if count))
    print(f"{total} completions in {grades.seconds:.1f} s")
    if grades.restored:
        print(
            f"{grades.restored} reference solutions mark no answer; they were graded with GSM8K's last line "
            "`#### answer` put back. --as-written grades them without."
        )
    write_result(
        json_path, {"counts": grades.counts, "seconds": grades.seconds, "answer_lines_restored": grades.restored}
    )


def pairs(
    model: ModelPath,
    problems_path: ProblemsPath,
    completions: Annotated[Path, typer.Option(help="Parquet of `rollouts`.")],
    verdicts: Annotated[Path, typer.Option(help="Parquet of `verify`.")],
    output: Annotated[Path, typer.Option(help="Pairs as Parquet, or as .jsonl in TRL's preference format.")],
    max_pairs_per_problem: Annotated[int | None, setting(OnPolicyPairSettings, "max_pairs_per_problem")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest prompt + completion in tokens; by default any length is taken.")
    ] = None,
    seed: Seed = None,
    set_: StageOverrides = None,
    field: FieldMap = None,
) -> None:
    """Combine correct and wrong completions of the same problem into preference pairs."""
    given = {
        "seed": seed,
        "policy.path": model,
        "pairs.max_pairs_per_problem": max_pairs_per_problem,
        "training.max_length": max_length,
    }
    chosen = read_settings(
        given,
        set_,
        defaults={"training.max_length": None},
        policy=PolicySettings,
        training=TrainingSettings,
        pairs=OnPolicyPairSettings,
    )
    fields = parse_fields(field)
    require_suffix(output, ".parquet", ".jsonl")
    from sage_dpo.pipeline.stages import combine_completions, write_pairs

    build = combine_completions(
        problems_path,
        completions,
        verdicts,
        chosen.policy,
        chosen.pairs,
        fields=fields,
        max_length=chosen.training.max_length,
        seed=chosen.seed,
    )
    changed = write_pairs(output, build.pairs, chosen.policy)
    print(f"{len(build.pairs)} pairs; {build.counts}: {output}")
    if changed:
        print(f"{changed} of them become other tokens when the text is read again; --output x.parquet keeps the tokens")
