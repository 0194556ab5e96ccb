"""Commands for those who train elsewhere: select from a data set, and see why a pair was kept or dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sage_dpo.cli.options import (
    FieldMap,
    JsonPath,
    ModelPath,
    Quiet,
    Seed,
    StageOverrides,
    parse_fields,
    read_settings,
    require_suffix,
    resumable,
    setting,
    write_result,
)
from sage_dpo.config import FixedPairSettings, PolicySettings, PoolSettings, SelectorSettings, TrainingSettings


@resumable()
def select(
    model: ModelPath,
    data: Annotated[str, typer.Option(help="Preference data: JSONL, JSON, Parquet, a folder, a hub id.")],
    output: Annotated[Path, typer.Option(help="The rows that are kept: .jsonl or .parquet.")],
    keep_ratio: Annotated[
        float | None, typer.Option(help="gamma, the fraction of the usable pairs that is kept.", show_default="0.5")
    ] = None,
    selector: Annotated[str | None, setting(SelectorSettings, "selector")] = None,
    gate: Annotated[float | None, setting(SelectorSettings, "gate")] = None,
    gate_quantile: Annotated[float | None, setting(SelectorSettings, "gate_quantile")] = None,
    cut: Annotated[str | None, setting(SelectorSettings, "cut")] = None,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="Write every row, with sage_is_kept and sage_reason.")
    ] = False,
    no_scores: Annotated[bool, typer.Option("--no-scores", help="Add no columns to the rows that are kept.")] = False,
    max_length: Annotated[int | None, setting(TrainingSettings, "max_length")] = None,
    token_budget: Annotated[int | None, setting(TrainingSettings, "score_token_budget", "--token-budget")] = None,
    split: Annotated[str, setting(FixedPairSettings, "split")] = "train",
    field: FieldMap = None,
    seed: Seed = None,
    set_: StageOverrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what an interrupted selection left.")] = False,
    json_path: JsonPath = None,
    quiet: Quiet = False,
) -> None:
    """Keep the best pairs of a preference data set, under a policy as it is: the same rows, for any trainer."""
    given = {
        "seed": seed,
        "policy.path": model,
        "training.max_length": max_length,
        "training.score_token_budget": token_budget,
        "selection.keep_ratio": keep_ratio,
        "selection.selector": selector,
        "selection.gate": gate,
        "selection.gate_quantile": gate_quantile,
        "selection.cut": cut,
    }
    chosen = read_settings(
        given, set_, policy=PolicySettings, training=TrainingSettings, pool=PoolSettings, selection=SelectorSettings
    )
    require_suffix(output, ".jsonl", ".parquet")
    fields = parse_fields(field)
    from sage_dpo.pipeline.select import SelectRequest, select_pairs

    request = SelectRequest(
        policy=chosen.policy,
        data=data,
        output=output,
        selection=chosen.selection,
        pool=chosen.pool,
        training=chosen.training,
        seed=chosen.seed,
        fields=fields,
        split=split,
        annotate=annotate,
        with_scores=not no_scores,
        fresh=fresh,
    )
    how = "run the same command without --fresh to continue" if fresh else "run the same command again to continue"
    with resumable(how=how):
        result = select_pairs(request, progress=not quiet)
    gate_text = "" if result["gate"] is None else f" (margin above {result['gate']:.4g})"
    print(f"{result['rows']} rows, {result['usable']} usable; excluded {result['excluded'] or 'none'}")
    print(f"kept {result['kept']}, below the cut {result['below']}, shut by the gate {result['shut']}{gate_text}")
    if result["strata"]:
        print("kept by stratum: " + ", ".join(f"{name} {k} of {n}" for name, (k, n) in result["strata"].items()))
    print(output)
    write_result(json_path, result)


def inspect(
    target: Annotated[
        Path,
        typer.Argument(help="Run folder, a SAGETrainer's output_dir, or a file: of select, of scores, of pairs."),
    ],
    pair: Annotated[
        str | None, typer.Option(help="One pair: its numbers, when it was kept and why, and beside which.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="One arm of a run; default: all.")] = None,
    top: Annotated[int, typer.Option(help="Rows of each list.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Tell which pairs were kept or dropped, why, at which steps, and beside which."""
    import json

    from sage_dpo.report.inspection import read_decisions
    from sage_dpo.report.inspection_facts import explain, summarize
    from sage_dpo.report.inspection_tables import format_pair, format_summary

    sources = read_decisions(target, arm)
    facts = [summarize(source, top=top) for source in sources] if pair is None else explain(sources, pair)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False, default=str))
    else:
        print("\n".join((format_summary if pair is None else format_pair)(fact) for fact in facts), end="")
