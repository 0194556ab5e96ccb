"""A plan as tables for a terminal, and beside what a run took. Reads the plan's JSON-able form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage_dpo.report.summary import ABSENT, count
from sage_dpo.report.tables import Cell, Table, cells, render_plain

_HEADER = ("stage", "tokens", "PFLOP", "hours", "peak GB")
_NOTE = (
    "Tokens: sampled ones for rollouts, probe and evaluation; prompts and completions for reference, scoring and "
    "training; answers for the verification, whose hours are those of its worker processes."
)


def format_plan(plan: Mapping[str, Any]) -> str:
    """Return a plan as text: a table of stages for each part, the totals, the assumptions, the warnings.

    Args:
        plan: of `planning.plan.Plan.as_dict`.
    """
    parts = [part for part in plan["parts"] if part["stages"]]
    tables = [_stage_table(part) for part in parts]
    totals = [*(_stage_row(part["name"], part["total"]) for part in parts), _stage_row("total", plan["total"])]
    # The tokens of different stages are of different kinds, so they have no total.
    total = Table("All arms", ("part", *_HEADER[2:]), tuple((name, *rest) for name, _, *rest in totals))
    lines = [f"Plan of {plan['name']}: {plan['machine']}", ""]
    lines += [render_plain(table) for table in (*tables, total)]
    lines += [*(f"- {note}" for note in plan["notes"]), f"- {_NOTE}"]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in plan["warnings"])])


def format_comparison(plan: Mapping[str, Any], measured: Mapping[str, Mapping[str, float]]) -> str:
    """Return predicted and measured tokens of each stage side by side, and their ratio.

    Args:
        plan: of `planning.plan.Plan.as_dict`.
        measured: by part and stage; of `planning.measured.read_measured`.
    """
    tables = []
    for part in plan["parts"]:
        if part["name"] not in measured:
            continue
        took = measured[part["name"]]
        predicted = {**{stage["name"]: stage["tokens"] for stage in part["stages"]}, **part["counts"]}
        rows = tuple(_comparison_row(name, predicted.get(name), took.get(name)) for name in predicted)
        tables.append(Table(part["name"], ("", "predicted", "measured", "predicted / measured"), rows))
    absent = [part["name"] for part in plan["parts"] if part["stages"] and part["name"] not in measured]
    lines = [render_plain(table) for table in tables]
    if absent:
        lines.append(f"not in the run, or not complete there: {', '.join(absent)}")
    return "\n".join(lines)


def _stage_table(part: Mapping[str, Any]) -> Table:
    counts = ", ".join(f"{name} {count(value)}" for name, value in part["counts"].items())
    rows = [_stage_row(stage["name"], stage) for stage in part["stages"]]
    return Table(f"{part['name']}{f' ({counts})' if counts else ''}", _HEADER, tuple(rows))


def _stage_row(name: str, stage: Mapping[str, float]) -> tuple[Cell, ...]:
    flops, memory = stage["flops"] / 1e15, stage["memory_gb"]
    return cells(
        name,
        count(stage["tokens"]),
        _short(flops) if flops else ABSENT,
        _short(stage["hours"]),
        _short(memory) if memory else ABSENT,
    )


def _comparison_row(name: str, predicted: float | None, took: float | None) -> tuple[Cell, ...]:
    ratio = f"{predicted / took:.2f}" if predicted and took else ABSENT
    return cells(name, count(predicted), count(took), ratio)


def _short(value: float) -> str:
    """Two or three digits that matter, never an exponent: 12,340  123  12.3  0.12  0.0012."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 1:
        return f"{value:.3g}"
    return f"{value:.2g}" if value >= 1e-4 else "<0.0001"
