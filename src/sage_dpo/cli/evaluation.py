"""The command that measures a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sage_dpo.cli.options import (
    LOCAL,
    BatchSize,
    FieldMap,
    JsonPath,
    ModelPath,
    PromptTemplate,
    Quiet,
    Seed,
    StageOverrides,
    SystemPrompt,
    parse_fields,
    read_settings,
    resumable,
    setting,
    write_result,
)
from sage_dpo.config import (
    BenchmarkSuiteSettings,
    EvaluationSettings,
    PolicySettings,
    RolloutSettings,
    VerificationSettings,
)


def evaluate(
    model: ModelPath,
    suites: Annotated[
        str, typer.Option(help="all (the benchmarks), gym, everyday, names, or name=path of any problems, with commas.")
    ] = "all",
    data: Annotated[Path | None, setting(BenchmarkSuiteSettings, "data")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for completions and verdicts, one file a suite.")] = None,
    max_new_tokens: Annotated[int | None, setting(EvaluationSettings, "max_new_tokens")] = None,
    batch_size: BatchSize = None,
    prompt_template: PromptTemplate = None,
    system_prompt: SystemPrompt = None,
    seed: Seed = None,
    set_: StageOverrides = None,
    field: FieldMap = None,
    json_path: JsonPath = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate a policy on the eight benchmarks, the gym's or everyday suites, or any file of problems."""
    from sage_dpo.pipeline.sources import suites_by_name

    given = {
        "seed": seed,
        "policy.path": model,
        "rollouts.engine.batch_size": batch_size,
        "rollouts.prompt_template": prompt_template,
        "rollouts.system_prompt": system_prompt,
        "evaluation.suites": suites_by_name(suites, data, parse_fields(field)),
        "evaluation.max_new_tokens": max_new_tokens,
    }
    chosen = read_settings(
        given,
        set_,
        defaults=LOCAL,
        policy=PolicySettings,
        rollouts=RolloutSettings,
        verification=VerificationSettings,
        evaluation=EvaluationSettings,
    )
    with resumable(output is not None):
        from sage_dpo.pipeline.evaluate import evaluate_model

        result = evaluate_model(
            chosen.policy,
            chosen.evaluation,
            chosen.rollouts,
            chosen.verification,
            folder=output,
            seed=chosen.seed,
            progress=not quiet,
        )
    for name, suite in result["suites"].items():
        low, high = (100 * bound for bound in suite["interval"])
        print(f"{name:16s} {100 * suite['accuracy']:6.2f}  [{low:.1f}, {high:.1f}]  {suite['size']} problems")
    print(f"{'average':16s} {100 * result['average']:6.2f}")
    write_result(json_path, result)
