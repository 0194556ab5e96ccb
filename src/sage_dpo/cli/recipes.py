"""Commands about whole recipes: run, study, tune, plan, report, and the page of their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sage_dpo.cli.options import JsonPath, Quiet, RecipeOverrides, parse_list, parse_overrides, resumable, write_result
from sage_dpo.config import RunConfig, load_config
from sage_dpo.config.page import settings_page

Accept = Annotated[
    list[str] | None,
    typer.Option(
        help="What may differ from the run that is continued, as versions.torch,machine.threads. Can be repeated."
    ),
]

RecipePath = Annotated[Path, typer.Argument(help="YAML recipe, or a name of `sage-dpo recipes`.")]


@resumable()
def run(
    recipe: RecipePath,
    set_: RecipeOverrides = None,
    output: Annotated[Path | None, typer.Option(help="Run folder; default <output_dir>/<name>.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier run in the folder.")] = False,
    accept: Accept = None,
    quiet: Quiet = False,
) -> None:
    """Run a recipe: problems, rollouts, verdicts, pairs, training of every arm, evaluation, report."""
    config = load_config(recipe, parse_overrides(set_))
    from sage_dpo.pipeline.run import run as run_recipe
    from sage_dpo.report import format_table
    from sage_dpo.run_folder import RunFolder
    from sage_dpo.storage import read_json

    accepted = [name for item in accept or [] for name in item.split(",")]
    how = "run the same command without --fresh to continue" if fresh else "run the same command again to continue"
    with resumable(how=how):
        folder = RunFolder(run_recipe(config, output=output, fresh=fresh, accepted=accepted, progress=not quiet))
    print(format_table(read_json(folder.summary)))
    print(f"report:  {folder.page}")
    print(f"summary: {folder.summary}")


@resumable()
def study(
    recipe: Annotated[Path, typer.Argument(help="Study file, or a name of `sage-dpo recipes`.")],
    output: Annotated[Path | None, typer.Option(help="Folder; default runs/studies/<name>.")] = None,
    workers: Annotated[int, typer.Option(help="Runs at a time; each gets a share of the CPU cores.", min=1)] = 1,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated, instead of the study's own.")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing; tell what is complete.")] = False,
    json_path: JsonPath = None,
    quiet: Quiet = False,
) -> None:
    """Run a grid of arms, conditions and seeds, and write one table, one JSON and the plots."""
    from sage_dpo.report.study import format_study
    from sage_dpo.run_folder import StudyFolder
    from sage_dpo.storage import read_json
    from sage_dpo.studies.study import run_study

    chosen = None if seeds is None else parse_list("--seeds", seeds, int, "1,2,3")
    root = run_study(recipe, output=output, workers=workers, seeds=chosen, report_only=report_only, progress=not quiet)
    folder = StudyFolder(root)
    result = read_json(folder.results)
    print(format_study(result))
    print(f"report:  {folder.page}")
    print(f"results: {folder.results}")
    write_result(json_path, result)


@resumable()
def tune(
    recipe: Annotated[Path, typer.Argument(help="As for `run`; with a `probe` section.")],
    learning_rates: Annotated[str, typer.Option(help="Comma-separated; every trained arm gets each of them.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the tuning runs.")] = None,
    json_path: JsonPath = None,
    quiet: Quiet = False,
) -> None:
    """Choose each arm's learning rate by probe accuracy; every arm gets the same grid."""
    config = load_config(recipe)
    rates = parse_list("--learning-rates", learning_rates, float, "5e-5,1e-4")
    from sage_dpo.pipeline.tune import tune as tune_recipe

    result = tune_recipe(config, rates, output=output, progress=not quiet)
    for arm, row in result["arms"].items():
        scores = "  ".join(f"{rate}: {100 * score:.1f}" for rate, score in row["probe_accuracy"].items())
        print(f"{arm:20s} best {row['best']}   ({scores})")
    write_result(json_path, result)


def plan(
    recipe: RecipePath,
    set_: RecipeOverrides = None,
    gpu: Annotated[str | None, typer.Option(help="Name, as H100 (the default), A100-80GB, L40S, RTX-4090.")] = None,
    gpus: Annotated[int, typer.Option(help="How many share the work, a process each.")] = 1,
    utilization: Annotated[float, typer.Option(help="Fraction of the peak that is reached.")] = 0.4,
    tflops: Annotated[float | None, typer.Option(help="Dense peak of another machine, TFLOP/s.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="Memory of another machine, 1e9 bytes.")] = None,
    bandwidth_gbs: Annotated[float | None, typer.Option(help="Its memory bandwidth, 1e9 bytes a second.")] = None,
    prompt_tokens: Annotated[float | None, typer.Option(help="Mean; default: measured on a sample.")] = None,
    completion_tokens: Annotated[
        float | None, typer.Option(help="Mean; default: half of rollouts.max_new_tokens, or measured on fixed pairs.")
    ] = None,
    problem_count: Annotated[int | None, typer.Option("--problems", help="Their number, if not loadable.")] = None,
    parameters: Annotated[float | None, typer.Option(help="Of a model whose configuration is not here.")] = None,
    layers: Annotated[int | None, typer.Option(help="Of such a model.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of such a model.")] = None,
    kv_width: Annotated[int | None, typer.Option(help="Key-value heads x head dimension; default: hidden.")] = None,
    vocabulary: Annotated[int | None, typer.Option(help="Rows of such a model's embedding table.")] = None,
    tied: Annotated[bool | None, typer.Option("--tied/--untied", help="Whether that table is its head, too.")] = None,
    measured: Annotated[Path | None, typer.Option(help="Run folder, to print what it took beside the plan.")] = None,
    json_path: JsonPath = None,
) -> None:
    """Tell what a recipe will take: tokens, operations, memory and hours of each stage. Runs nothing."""
    config = load_config(recipe, parse_overrides(set_))
    from sage_dpo.planning import Given, find_machine, plan_recipe, read_measured
    from sage_dpo.report.plan import format_comparison, format_plan

    machine = find_machine(
        gpu, count=gpus, utilization=utilization, tflops=tflops, memory_gb=memory_gb, bandwidth_gbs=bandwidth_gbs
    )
    given = Given(
        prompt_tokens, completion_tokens, problem_count, parameters, layers, hidden, kv_width, vocabulary, tied
    )
    took = read_measured(measured) if measured else None
    result = plan_recipe(config, machine, given).as_dict()
    print(format_plan(result) if took is None else format_comparison(result, took))
    write_result(json_path, result if took is None else {**result, "measured": took})


def report(run_folder: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Write the report of a run again."""
    from sage_dpo.report import write_report

    print(write_report(run_folder))


def settings() -> None:
    """Print every setting of a recipe and of a study with its values, default and meaning, as Markdown."""
    from sage_dpo.studies.config import StudyConfig

    print(settings_page(recipe=RunConfig, study=StudyConfig), end="")
