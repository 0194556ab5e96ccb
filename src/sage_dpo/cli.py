"""`sage-dpo`: every stage from the command line. Arguments become a configuration; the work is done elsewhere.

Heavy imports happen inside the commands, so that `--help` and a typing error answer at once.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from sage_dpo import __version__
from sage_dpo.errors import ConfigError, SageError

app = typer.Typer(
    help="Select the preference pairs worth a gradient, while the policy trains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
gym_app = typer.Typer(help="The gym: a small reasoning world with known misconceptions.", no_args_is_help=True)
app.add_typer(gym_app, name="gym")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
ModelPath = Annotated[str, typer.Option("--model", help="Folder, hub id, or gym:S, gym:M for a bundled policy.")]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON.")]
ProblemsPath = Annotated[Path, typer.Option("--problems", help="JSONL or Parquet with id, problem, answer.")]
PromptTemplate = Annotated[str, typer.Option(help="User message; {problem} is replaced.")]
FieldMap = Annotated[
    list[str] | None, typer.Option("--field", help="Other column names, as answer=gold. Can be repeated.")
]


def main() -> None:
    """Run the command line; errors of ours become one message and exit code 2."""
    # transformers 5.23 renames what TRL 1.16 still uses; nothing a user of ours can change
    warnings.filterwarnings("ignore", message=".*is deprecated and will be removed in v6", category=FutureWarning)
    try:
        app()
    except SageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # typer turns Ctrl-C into exit code 130
            raise
        print("\ninterrupted; run the same command again to continue", file=sys.stderr)
        raise SystemExit(130) from None


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, see recipes/.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override, as training.steps=20.")] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder; default <output_dir>/<name>.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier run in the folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe: problems, rollouts, verdicts, pairs, training of every arm, evaluation, report."""
    from sage_dpo.config import load_config

    config = load_config(recipe, dict(_assignment(item, parse=True) for item in set_ or []))
    from sage_dpo.pipeline.run import run as run_recipe
    from sage_dpo.report import format_table
    from sage_dpo.storage import read_json

    folder = run_recipe(config, output=output, fresh=fresh, progress=not quiet)
    print(format_table(read_json(folder / "summary.json")))
    print(f"report:  {folder / 'report' / 'index.html'}")
    print(f"summary: {folder / 'summary.json'}")


@app.command()
def study(
    recipe: Annotated[Path, typer.Argument(help="Study file, see recipes/studies/.")],
    output: Annotated[Path | None, typer.Option(help="Folder; default runs/studies/<name>.")] = None,
    workers: Annotated[int, typer.Option(help="Runs at a time; each gets a share of the CPU cores.", min=1)] = 1,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated, instead of the study's own.")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing; tell what is complete.")] = False,
    json_path: JsonPath = None,
    quiet: Quiet = False,
) -> None:
    """Run a grid of arms, conditions and seeds, and write one table, one JSON and the plots."""
    from sage_dpo.report.study import format_study
    from sage_dpo.storage import read_json
    from sage_dpo.studies.study import run_study

    folder = run_study(
        recipe, output=output, workers=workers, seeds=_seeds(seeds), report_only=report_only, progress=not quiet
    )
    result = read_json(folder / "results.json")
    print(format_study(result))
    print(f"report:  {folder / 'index.html'}")
    print(f"results: {folder / 'results.json'}")
    _write_json(json_path, result)


@app.command()
def tune(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe with a `probe` section.")],
    learning_rates: Annotated[str, typer.Option(help="Comma-separated; every trained arm gets each of them.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the tuning runs.")] = None,
    json_path: JsonPath = None,
    quiet: Quiet = False,
) -> None:
    """Choose each arm's learning rate by probe accuracy; every arm gets the same grid."""
    from sage_dpo.config import load_config

    config = load_config(recipe)
    try:
        rates = [float(rate) for rate in learning_rates.split(",")]
    except ValueError:
        raise ConfigError(f"--learning-rates is {learning_rates!r}, expected numbers like 5e-5,1e-4") from None
    from sage_dpo.pipeline.tune import tune as tune_recipe

    result = tune_recipe(config, rates, output=output, progress=not quiet)
    for arm, row in result["arms"].items():
        scores = "  ".join(f"{rate}: {100 * score:.1f}" for rate, score in row["probe_accuracy"].items())
        print(f"{arm:20s} best {row['best']}   ({scores})")
    _write_json(json_path, result)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, see recipes/.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override, as training.steps=20.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Name, as H100 (the default), A100-80GB, L40S, RTX-4090.")] = None,
    gpus: Annotated[int, typer.Option(help="How many share reference, scoring and training.")] = 1,
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
    from sage_dpo.config import load_config

    config = load_config(recipe, dict(_assignment(item, parse=True) for item in set_ or []))
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
    _write_json(json_path, result if took is None else {**result, "measured": took})


@app.command()
def problems(
    input_: Annotated[Path, typer.Option("--input", help="JSONL, Parquet or a saved datasets folder.")],
    output: Annotated[Path | None, typer.Option(help="Write the accepted problems as Parquet.")] = None,
    data: Annotated[Path | None, typer.Option(help="Benchmark folder to report overlap with.")] = None,
    field: FieldMap = None,
    json_path: JsonPath = None,
) -> None:
    """Validate problems, remove duplicates, report overlap with the evaluation suites."""
    from sage_dpo.config import BenchmarkSuiteSettings, EvaluationSettings
    from sage_dpo.pipeline.sources import load_suites
    from sage_dpo.problems import deduplicate, load_problems, overlap_report
    from sage_dpo.records import Problem
    from sage_dpo.storage import write_records

    loaded = load_problems(input_, fields=_fields(field))
    unique = deduplicate(loaded.problems)
    settings = EvaluationSettings(suites=BenchmarkSuiteSettings(kind="benchmarks", data=str(data))) if data else None
    rows = overlap_report(unique.problems, load_suites(settings))
    result = {
        "problems": len(unique.problems),
        "excluded": {**loaded.counts, **unique.counts},
        "overlap": [{name: getattr(row, name) for name in row.__dataclass_fields__} for row in rows],
    }
    print(f"{result['problems']} problems; excluded {result['excluded'] or 'none'}; {len(rows)} overlaps")
    if output:
        write_records(output, unique.problems, Problem)
    _write_json(json_path, result)


@app.command()
def rollouts(
    model: ModelPath,
    problems_path: ProblemsPath,
    output: Annotated[Path, typer.Option(help="Completions as Parquet.")],
    samples: Annotated[int, typer.Option(help="K completions a problem.")] = 8,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_new_tokens: int = 512,
    batch_size: int = 256,
    prompt_template: PromptTemplate = "{problem}",
    system_prompt: str | None = None,
    seed: int = 0,
    field: FieldMap = None,
    quiet: Quiet = False,
) -> None:
    """Sample completions from a policy."""
    from sage_dpo.config import PolicySettings
    from sage_dpo.pipeline.policies import load_model, load_tokenizer
    from sage_dpo.problems import load_problems
    from sage_dpo.records import Completion
    from sage_dpo.rollouts import SamplingParams, build_prompts
    from sage_dpo.rollouts.transformers import TransformersEngine
    from sage_dpo.storage import write_records

    policy = PolicySettings(path=model)
    tokenizer = load_tokenizer(policy)
    loaded = load_problems(problems_path, fields=_fields(field)).problems
    prompts = build_prompts(loaded, tokenizer, prompt_template=prompt_template, system_prompt=system_prompt)
    settings = SamplingParams(samples, temperature, top_p, top_k, max_new_tokens)
    engine = TransformersEngine(load_model(policy), tokenizer, batch_size=batch_size)
    completions = engine.sample(prompts, settings=settings, seed=seed, progress=not quiet)
    write_records(output, completions, Completion)
    finished = Counter(str(c.finish_reason) for c in completions)
    print(f"{len(completions)} completions of {len(prompts)} problems, {dict(finished)}: {output}")


@app.command()
def verify(
    problems_path: ProblemsPath,
    completions: Annotated[
        str,
        typer.Option(help="Parquet of `rollouts`, JSONL of problem_id and completion, or a column of the problems."),
    ],
    output: Annotated[Path | None, typer.Option(help="Verdicts as Parquet.")] = None,
    workers: int = 2,
    soft_timeout_s: float = 3.0,
    hard_timeout_s: float = 10.0,
    as_written: Annotated[
        bool, typer.Option("--as-written", help="Do not restore the `#### answer` line of reference solutions.")
    ] = False,
    field: FieldMap = None,
    json_path: JsonPath = None,
    quiet: Quiet = False,
) -> None:
    """Grade completions against gold answers."""
    from sage_dpo.pipeline.grading import grade
    from sage_dpo.records import Verdict
    from sage_dpo.storage import write_records

    grades = grade(
        problems_path,
        completions,
        fields=_fields(field),
        verifier={"workers": workers, "soft_timeout_s": soft_timeout_s, "hard_timeout_s": hard_timeout_s},
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
    _write_json(
        json_path, {"counts": grades.counts, "seconds": grades.seconds, "answer_lines_restored": grades.restored}
    )


@app.command()
def pairs(
    model: ModelPath,
    problems_path: ProblemsPath,
    completions: Annotated[Path, typer.Option(help="Parquet of `rollouts`.")],
    verdicts: Annotated[Path, typer.Option(help="Parquet of `verify`.")],
    output: Annotated[Path, typer.Option(help="Pairs as Parquet, or as .jsonl in TRL's preference format.")],
    max_pairs_per_problem: int = 4,
    max_length: int | None = None,
    seed: int = 0,
    field: FieldMap = None,
) -> None:
    """Combine correct and wrong completions of the same problem into preference pairs."""
    from sage_dpo.config import OnPolicyPairSettings, PolicySettings
    from sage_dpo.pairs.build import build_pairs
    from sage_dpo.pairs.preference_data import preference_rows
    from sage_dpo.pipeline.policies import load_tokenizer
    from sage_dpo.problems import load_problems
    from sage_dpo.records import Completion, PreferencePair, Verdict
    from sage_dpo.storage import read_records, write_jsonl, write_records

    build = build_pairs(
        load_problems(problems_path, fields=_fields(field)).problems,
        read_records(completions, Completion),
        read_records(verdicts, Verdict),
        settings=OnPolicyPairSettings(max_pairs_per_problem=max_pairs_per_problem),
        seed=seed,
        policy_version=0,
        max_length=max_length,
        eos_token_id=load_tokenizer(PolicySettings(path=model)).eos_token_id,
        reference=None,
    )
    if output.suffix == ".jsonl":
        write_jsonl(output, preference_rows(build.pairs))
    else:
        write_records(output, build.pairs, PreferencePair)
    print(f"{len(build.pairs)} pairs; {build.counts}: {output}")


@app.command()
def score(
    model: ModelPath,
    pairs_path: Annotated[Path, typer.Option("--pairs", help="Parquet of `pairs`.")],
    output: Annotated[Path, typer.Option(help="Scores as Parquet, one row a pair.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Selector setting, as margin_temperature=5.")] = None,
    token_budget: int = 16384,
    quiet: Quiet = False,
) -> None:
    """Score pairs under a policy and show which ones a selector would keep."""
    from sage_dpo.config import SelectorSettings, validate
    from sage_dpo.pipeline.scoring import score_pairs
    from sage_dpo.records import PairScore
    from sage_dpo.storage import write_records

    settings = validate(SelectorSettings, dict(_assignment(item, parse=True) for item in set_ or []), where="--set")
    scores = score_pairs(model, pairs_path, settings, token_budget=token_budget, progress=not quiet)
    write_records(output, scores, PairScore)
    print(f"{sum(s.is_kept for s in scores)} of {len(scores)} pairs kept: {output}")


@app.command()
def evaluate(
    model: ModelPath,
    suites: Annotated[str, typer.Option(help="all (the benchmarks), gym, or names separated by commas.")] = "all",
    data: Annotated[
        Path | None, typer.Option(help="Folder of <suite>.jsonl files; without it, pinned hub revisions.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for completions and verdicts, one file a suite.")] = None,
    max_new_tokens: int = 512,
    batch_size: int = 256,
    prompt_template: PromptTemplate = "{problem}",
    system_prompt: str | None = None,
    seed: int = 0,
    json_path: JsonPath = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate a policy on the eight benchmarks or the gym's suites."""
    from sage_dpo.pipeline.evaluate import evaluate_model

    result = evaluate_model(
        model,
        suites,
        data=data,
        folder=output,
        rollouts={
            "engine": {"kind": "transformers", "batch_size": batch_size},
            "prompt_template": prompt_template,
            "system_prompt": system_prompt,
        },
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=not quiet,
    )
    for name, suite in result["suites"].items():
        low, high = (100 * bound for bound in suite["interval"])
        print(f"{name:16s} {100 * suite['accuracy']:6.2f}  [{low:.1f}, {high:.1f}]  {suite['size']} problems")
    print(f"{'average':16s} {100 * result['average']:6.2f}")
    _write_json(json_path, result)


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Write the report of a run again."""
    from sage_dpo.report import write_report

    print(write_report(run_folder))


@gym_app.command("train")
def gym_train(
    output: Annotated[Path, typer.Option(help="Folder for the policy.")],
    size: Annotated[str, typer.Option(help="S, M or L.")] = "S",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; default the size's own.")] = None,
    seed: int = 0,
    quiet: Quiet = False,
) -> None:
    """Train a gym policy from scratch on solutions with misconceptions."""
    from sage_dpo.gym.policy import train_policy

    print(json.dumps(train_policy(size, output, seed=seed, steps=steps, progress=not quiet), indent=2))


@gym_app.command("problems")
def gym_problems(
    output: Annotated[Path, typer.Option(help="JSONL to write.")],
    split: Annotated[str, typer.Option(help="train, probe, or a suite's name.")] = "train",
    count: int = 512,
    seed: int = 0,
) -> None:
    """Write gym problems as JSONL, to look at or to use with the other commands."""
    from sage_dpo.gym.suites import SUITES, load_suite
    from sage_dpo.gym.world import generate_problems
    from sage_dpo.storage import write_jsonl

    rows = load_suite(split) if split in SUITES else generate_problems(split, count, seed=seed)
    write_jsonl(output, [{name: getattr(row, name) for name in row.__dataclass_fields__} for row in rows])
    print(f"{len(rows)} problems: {output}")


def _assignment(text: str, *, parse: bool = False) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is not an assignment, expected key=value")
    if not parse:
        return key, value
    from sage_dpo.config import parse_yaml

    return key, parse_yaml(value)


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds is {text!r}, expected whole numbers like 1,2,3") from None


def _fields(items: list[str] | None) -> dict[str, str]:
    return dict(_assignment(item) for item in items or [])


def _write_json(path: Path | None, value: Any) -> None:
    if path:
        from sage_dpo.storage import write_json

        write_json(path, value)


if __name__ == "__main__":
    main()
