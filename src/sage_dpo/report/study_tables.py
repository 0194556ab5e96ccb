"""The tables of a study: accuracy, differences, cost, and what its further questions found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sage_dpo.core.statistics import seed_interval
from sage_dpo.report.summary import ABSENT, count, duration, points
from sage_dpo.report.tables import Cell, Table, cells

StudyResult = Mapping[str, Any]
"""What `results.json` holds."""


def study_tables(result: StudyResult) -> list[Table]:
    """Every table that has rows."""
    rows = conditions(result)
    labels = [f": {row['condition']}" if len(rows) > 1 else "" for row in rows]
    labelled = list(zip(rows, labels, strict=True))
    tables = [_accuracy_table(result, rows)]
    tables += [_comparison_table(row, label) for row, label in labelled]
    tables += [_cost_table(row, label) for row, label in labelled]
    for row, label in labelled:
        tables += [
            *_time_tables(row.get("time_to_quality", {}), label),
            _quality_table(row.get("selection_quality", {}), label),
            _cause_table(row.get("kept_by_cause", {}), label),
            *_noise_tables(row.get("gradient_noise", {}), label),
            *_tuning_tables(row.get("tuning", {}), label),
            _drift_table(row.get("drift", {}), label),
        ]
    return [table for table in tables if table.rows]


def conditions(result: StudyResult) -> list[Mapping[str, Any]]:
    """All conditions of a study; the first is the result's own top level."""
    return [result, *result.get("conditions", [])]


def mean_text(values: Sequence[float | None]) -> str:
    """`87.2 ± 1.3` in percent; no interval for a single seed."""
    known = [value for value in values if value is not None]
    if not known:
        return ABSENT
    interval = seed_interval(known)
    return _percent(interval.estimate, None if len(known) < 2 else interval.high)


# -- accuracy, differences, cost ---------------------------------------------------------------------------------------


def _accuracy_table(result: StudyResult, rows: Sequence[Mapping[str, Any]]) -> Table:
    """One condition: arms are rows, suites are columns. Several: conditions are rows, arms are columns."""
    arms = list(dict.fromkeys(arm for row in rows for arm in row["arms"]))
    if len(rows) > 1:
        told = [{name: then for arm in row["arms"] for name, then in _at_best(arm, row["arms"][arm])} for row in rows]
        names = [name for arm in arms for name in (arm, f"{arm}:best") if any(name in row for row in told)]
        body = [
            cells(row["condition"], *(mean_text(own.get(name, {}).get("average", [])) for name in names))
            for row, own in zip(rows, told, strict=True)
        ]
        body = [row for row in body if any(cell.text != ABSENT for cell in row[1:])]
        return Table(f"{result['title']}: average accuracy, %", (result["axis"] or "condition", *names), tuple(body))
    suites = list(dict.fromkeys(suite for arm in arms for suite in result["arms"][arm]["suites"]))
    lines = []
    for arm in arms:
        values = result["arms"][arm]
        if any(value is not None for value in values["average"]):
            for name, then in _at_best(arm, values):
                means = (f"{100 * np.mean(then['suites'][suite]):.1f}" for suite in suites)
                lines.append(cells(name, mean_text(then["average"]), *means))
            for step, then in _on_the_way(values).items():
                lines.append(cells(f"{arm}:{step}", mean_text(then["average"]), *("" for _ in suites)))
    return Table(f"{result['title']}: accuracy, %", ("arm", "average", *suites), tuple(lines))


def _comparison_table(row: Mapping[str, Any], label: str) -> Table:
    lines = [
        cells(
            comparison,
            name.replace("_minus_", " − "),
            points(entry["mean"]),
            ABSENT if entry["low"] is None else f"{points(entry['low'])} to {points(entry['high'])}",
            "  ".join(points(value) for value in entry["values"]),
        )
        for comparison, entries in row["comparisons"].items()
        for name, entry in entries.items()
    ]
    header = ("comparison", "difference", "points", "95 % interval", "each seed")
    return Table(f"Differences in points, paired by seed{label}", header, tuple(lines))


def _cost_table(row: Mapping[str, Any], label: str) -> Table:
    lines = []
    for arm, values in row["arms"].items():
        rate = ABSENT if values["learning_rate"] is None else f"{values['learning_rate']:g}"
        if values["steps"]:
            lines.append(_cost_row(arm, _mean(values.get("stopped", values["steps"])), rate, values))
            lines += [_cost_row(name, _mean(best["step"]), rate, best) for name, best in _at_best(arm, values)[1:]]
            lines += [_cost_row(f"{arm}:{step}", step, rate, then) for step, then in _on_the_way(values).items()]
    header = (
        "arm", "steps", "learning rate", "tokens trained", "scored", "reference", "generated", "TFLOP", "wall-clock",
    )  # fmt: skip
    return Table(f"Cost, means over seeds{label}", header, tuple(lines))


def _on_the_way(values: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """What an arm could do and had cost before its last step, by step."""
    return {int(step): then for step, then in values["at_steps"].items() if int(step) != values["steps"]}


def _at_best(arm: str, values: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """An arm at the end of its training and, where the suites were run on it, at its best probe."""
    return [(arm, values), *([(f"{arm}:best", values["best"])] if "best" in values else [])]


def _mean(values: float | Sequence[float]) -> float:
    return float(np.mean(values))


def _cost_row(label: str, steps: float, rate: str, costs: Mapping[str, Any]) -> tuple[Cell, ...]:
    tokens = ("train_tokens", "scored_tokens", "reference_tokens", "generated_tokens")
    return cells(
        label,
        count(steps),
        rate,
        *(count(float(np.mean(costs[name]))) for name in tokens),
        f"{np.mean(costs['flops']) / 1e12:.2f}",
        duration(float(np.mean(costs["wall_s"]))),
    )


# -- further questions -------------------------------------------------------------------------------------------------


def _time_tables(values: Mapping[str, Any], label: str) -> list[Table]:
    if not values:
        return []
    reference = values["reference"]
    best = _time_table(f"Time to the best probe accuracy of {reference}{label}", values["arms"], reference)
    levels = [
        _time_table(f"Time to a probe accuracy of {100 * float(level):g} %{label}", arms, reference)
        for level, arms in values["levels"].items()
    ]
    return [best, *levels]


def _time_table(caption: str, arms: Mapping[str, Any], reference: str) -> Table:
    lines = [
        cells(
            arm,
            _ratio(row["wall_ratio"], row["wall_interval"]),
            _ratio(row["flops_ratio"], row["flops_interval"]),
            f"{row['reached']} of {row['seeds']}",
        )
        for arm, row in arms.items()
        if row["reached"]
    ]
    note = f"Cost until an arm first reaches it, divided by that of {reference}; arms that never do are left out. "
    note += "Geometric means over seeds, none where a seed did not reach it. Rollouts, scoring and training are in it."
    return Table(caption, ("arm", "wall-clock ratio", "FLOP ratio", "reached"), tuple(lines), note)


def _quality_table(values: Mapping[str, Any], label: str) -> Table:
    columns = {
        "precision": "precision",
        "base rate": "base_rate",
        "recall": "recall",
        "mislabelled kept": "mislabelled",
        "mislabelled drawn": "mislabelled_base",
    }
    lines = [
        cells(arm, version, *(_share(row.get(name)) for name in columns.values()))
        for arm, versions in values.items()
        for version, row in versions.items()
    ]
    note = "Confident errors: the rejected answer's first wrong step follows a misconception that the base policy "
    note += "holds there with probability >= 1/2. Base rate: their share of the pairs drawn, the precision of a blind "
    note += "choice."
    header = ("arm", "pool", *columns)
    return Table(f"Confident errors among the kept pairs, %{label}", header, tuple(lines), note)


def _cause_table(values: Mapping[str, Any], label: str) -> Table:
    causes = sorted({cause for row in values.values() for cause in row})
    lines = [cells(arm, *(_share(row.get(cause)) for cause in causes)) for arm, row in values.items()]
    note = "By the cause of the rejected answer's first error: a misconception, a slip, or structure (a step skipped, "
    note += "repeated or misread). All pools together."
    return Table(f"Share of the candidates kept, %{label}", ("arm", *causes), tuple(lines), note)


def _noise_tables(values: Mapping[str, Any], label: str) -> list[Table]:
    columns = {"signal-to-noise": "snr", "variance": "variance", "signal": "signal"}
    note = "Over microbatches of 8 pairs: |E G|² / tr Cov G, tr Cov G, |E G|². Means over seeds."
    tables = []
    for policy, arms in values.items():
        lines = [cells(arm, *(_number(row[name]) for name in columns.values())) for arm, row in arms.items()]
        tables.append(Table(f"Gradient noise at the policy {policy}{label}", ("arm", *columns), tuple(lines), note))
    return tables


def _tuning_tables(values: Mapping[str, Any], label: str) -> list[Table]:
    tables = []
    for arm, entry in values.items():
        grid, best = entry["probe_accuracy"], (entry["best"]["value"], entry["best"]["step"])
        steps = list(next(iter(grid.values())))
        lines = [
            (Cell(value), *(Cell(_percent(row[s]), is_best=(float(value), int(s)) == best) for s in steps))
            for value, row in grid.items()
        ]
        tables.append(Table(f"Probe accuracy of {arm}, % by optimizer step{label}", ("value", *steps), tuple(lines)))
    return tables


def _drift_table(values: Mapping[str, Any], label: str) -> Table:
    columns = {"right answers": "correct", "wrong answers": "wrong", "KL from the start": "kl"}
    lines = [cells(arm, *(_number(row[name]) for name in columns.values())) for arm, row in values.items()]
    note = (
        "The samples of the first pool, scored again with the policy after training: change of their log-probability "
    )
    note += "in nats an answer, and minus the change over all of them. Means over seeds."
    return Table(f"What training did to the first answers{label}", ("arm", *columns), tuple(lines), note)


# -- numbers -----------------------------------------------------------------------------------------------------------


def _percent(mean: float, high: float | None = None) -> str:
    return f"{100 * mean:.1f}" + ("" if high is None else f" ± {100 * (high - mean):.1f}")


def _share(entry: Mapping[str, Any] | None) -> str:
    return ABSENT if entry is None else _percent(entry["mean"], entry["high"])


def _number(entry: Mapping[str, Any]) -> str:
    return f"{entry['mean']:.3g}" + ("" if entry["high"] is None else f" ± {entry['high'] - entry['mean']:.2g}")


def _ratio(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")
