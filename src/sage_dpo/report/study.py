"""The results of a study, told: `results.json` as tables (Markdown, terminal) and as a page with plots.

Everything here is drawn from `results.json` alone, so a published file can be told again without its run folders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sage_dpo.core.statistics import Interval, seed_interval
from sage_dpo.report.figure import Key, Panel, Plot, arm_keys, css_variables, drawing, marker, new_axes, to_panel
from sage_dpo.report.page import template_environment
from sage_dpo.report.summary import ABSENT, count, duration, points
from sage_dpo.report.tables import Cell, Table, render_markdown, render_plain
from sage_dpo.storage import read_json, write_text

Result = Mapping[str, Any]
_SEEDS_NOTE = (
    "Means over seeds, with the 95 % Student interval over seeds; a seed changes the training problems, the rollouts "
    "and the order of pairs."
)


def write_study_report(root: Path) -> Path:
    """Write `table.md`, `index.html` and the plots as SVG of a folder that holds `results.json`; return the page."""
    result = read_json(root / "results.json")
    write_text(root / "table.md", study_markdown(result))
    plots = study_plots(result)
    page = (
        template_environment()
        .get_template("study.html")
        .render(
            result=result,
            light=css_variables(dark=False),
            dark=css_variables(dark=True),
            tables=study_tables(result),
            plots=plots,
        )
    )
    for plot in plots:
        for number, panel in enumerate(plot.panels):
            name = re.sub(r"\W+", "-", plot.title.split(":")[0].lower()).strip("-")  # an axis may hold any sign
            write_text(root / "plots" / f"{name}-{number}.svg", _standalone(panel))
    write_text(root / "index.html", page)
    return root / "index.html"


def format_study(result: Result) -> str:
    """Return the tables as aligned text for a terminal."""
    return "\n".join(render_plain(table) for table in study_tables(result))


def study_markdown(result: Result) -> str:
    """Return the tables as Markdown, headed by the command that makes them."""
    head = [f"# {result['title']}", "", f"`{result['command']}`, seeds {_seeds(result)}. {_SEEDS_NOTE}", ""]
    return "\n".join([*head, *(render_markdown(table) for table in study_tables(result))])


def study_tables(result: Result) -> list[Table]:
    """Every table that has rows."""
    rows = conditions(result)
    tables = [_accuracy_table(result, rows), *(_comparison_table(row, len(rows) > 1) for row in rows)]
    tables += [_cost_table(row, len(rows) > 1) for row in rows]
    for row in rows:
        label = f": {row['condition']}" if len(rows) > 1 else ""
        tables += [
            *_time_tables(row.get("time_to_quality", {}), label),
            _quality_table(row.get("selection_quality", {}), label),
            _cause_table(row.get("kept_by_cause", {}), label),
            *_noise_tables(row.get("gradient_noise", {}), label),
            *_tuning_tables(row.get("tuning", {}), label),
        ]
    return [table for table in tables if table.rows]


def conditions(result: Result) -> list[Mapping[str, Any]]:
    """All conditions of a study; the first is the result's own top level."""
    return [result, *result.get("conditions", [])]


def mean_text(values: Sequence[float | None]) -> str:
    """`87.2 ± 1.3` in percent; no interval for a single seed."""
    known = [value for value in values if value is not None]
    if not known:
        return ABSENT
    interval = seed_interval(known)
    half = "" if len(known) < 2 else f" ± {100 * (interval.high - interval.estimate):.1f}"
    return f"{100 * interval.estimate:.1f}{half}"


# -- tables ------------------------------------------------------------------------------------------------------------


def _accuracy_table(result: Result, rows: Sequence[Mapping[str, Any]]) -> Table:
    """One condition: arms are rows, suites are columns. Several: conditions are rows, arms are columns."""
    arms = list(dict.fromkeys(arm for row in rows for arm in row["arms"]))
    if len(rows) > 1:
        body = [
            (Cell(row["condition"]), *(Cell(mean_text(row["arms"].get(arm, {}).get("average", []))) for arm in arms))
            for row in rows
        ]
        body = [row for row in body if any(cell.text != ABSENT for cell in row[1:])]
        return Table(f"{result['title']}: average accuracy, %", (result["axis"] or "condition", *arms), tuple(body))
    suites = list(dict.fromkeys(suite for arm in arms for suite in result["arms"][arm]["suites"]))
    lines: list[tuple[Cell, ...]] = []
    for arm in arms:
        values = result["arms"][arm]
        if any(value is not None for value in values["average"]):
            means = (Cell(f"{100 * np.mean(values['suites'][suite]):.1f}") for suite in suites)
            lines.append((Cell(arm), Cell(mean_text(values["average"])), *means))
            for step, then in _on_the_way(values).items():
                lines.append((Cell(f"{arm}:{step}"), Cell(mean_text(then["average"])), *(Cell("") for _ in suites)))
    return Table(f"{result['title']}: accuracy, %", ("arm", "average", *suites), tuple(lines))


def _comparison_table(row: Mapping[str, Any], is_named: bool) -> Table:
    lines = [
        (
            Cell(comparison),
            Cell(name.replace("_minus_", " − ")),
            Cell(points(entry["mean"])),
            Cell(ABSENT if entry["low"] is None else f"{points(entry['low'])} to {points(entry['high'])}"),
            Cell("  ".join(points(value) for value in entry["values"])),
        )
        for comparison, entries in row["comparisons"].items()
        for name, entry in entries.items()
    ]
    caption = "Differences in points, paired by seed" + (f": {row['condition']}" if is_named else "")
    return Table(caption, ("comparison", "difference", "points", "95 % interval", "each seed"), tuple(lines))


def _cost_table(row: Mapping[str, Any], is_named: bool) -> Table:
    lines = []
    for arm, values in row["arms"].items():
        rate = ABSENT if values["learning_rate"] is None else f"{values['learning_rate']:g}"
        if values["steps"]:
            lines.append(_cost_row(arm, values["steps"], rate, values))
            lines += [_cost_row(f"{arm}:{step}", step, rate, then) for step, then in _on_the_way(values).items()]
    caption = "Cost, means over seeds" + (f": {row['condition']}" if is_named else "")
    header = (
        "arm", "steps", "learning rate", "tokens trained", "scored", "reference", "generated", "TFLOP", "wall-clock",
    )  # fmt: skip
    return Table(caption, header, tuple(lines))


def _on_the_way(values: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """What an arm could do and had cost before its last step, by step."""
    return {int(step): then for step, then in values["at_steps"].items() if int(step) != values["steps"]}


def _cost_row(label: str, steps: int, rate: str, costs: Mapping[str, Any]) -> tuple[Cell, ...]:
    tokens = ("train_tokens", "scored_tokens", "reference_tokens", "generated_tokens")
    return (
        Cell(label),
        Cell(count(steps)),
        Cell(rate),
        *(Cell(count(float(np.mean(costs[name])))) for name in tokens),
        Cell(f"{np.mean(costs['flops']) / 1e12:.2f}"),
        Cell(duration(float(np.mean(costs["wall_s"])))),
    )


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
        (
            Cell(arm),
            Cell(_ratio(row["wall_ratio"], row["wall_interval"])),
            Cell(_ratio(row["flops_ratio"], row["flops_interval"])),
            Cell(f"{row['reached']} of {row['seeds']}"),
        )
        for arm, row in arms.items()
        if row["reached"]
    ]
    note = f"Cost until an arm first reaches it, divided by that of {reference}; arms that never do are left out. "
    note += "Geometric means over seeds, none where a seed did not reach it. Rollouts, scoring and training are in it."
    return Table(caption, ("arm", "wall-clock ratio", "FLOP ratio", "reached"), tuple(lines), note)


def _ratio(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _quality_table(values: Mapping[str, Any], label: str) -> Table:
    lines = [
        (Cell(arm), Cell(version), *(Cell(_share(row.get(name))) for name in _QUALITY))
        for arm, versions in values.items()
        for version, row in versions.items()
    ]
    note = "Confident errors: the rejected answer's first wrong step follows a misconception that the base policy "
    note += "holds there with probability >= 1/2. Base rate: their share of the pairs drawn, the precision of a blind "
    note += "choice."
    header = ("arm", "pool", "precision", "base rate", "recall", "mislabelled kept", "mislabelled drawn")
    return Table(f"Confident errors among the kept pairs, %{label}", header, tuple(lines), note)


def _cause_table(values: Mapping[str, Any], label: str) -> Table:
    causes = sorted({cause for row in values.values() for cause in row})
    lines = [(Cell(arm), *(Cell(_share(row.get(cause))) for cause in causes)) for arm, row in values.items()]
    note = "By the cause of the rejected answer's first error: a misconception, a slip, or structure (a step skipped, "
    note += "repeated or misread). All pools together."
    return Table(f"Share of the candidates kept, %{label}", ("arm", *causes), tuple(lines), note)


_QUALITY = ("precision", "base_rate", "recall", "mislabelled", "mislabelled_base")


def _share(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ABSENT
    half = "" if entry["low"] is None else f" ± {100 * (entry['high'] - entry['mean']):.1f}"
    return f"{100 * entry['mean']:.1f}{half}"


def _noise_tables(values: Mapping[str, Any], label: str) -> list[Table]:
    tables = []
    for policy, arms in values.items():
        lines = [
            (Cell(arm), *(Cell(_number(row[name])) for name in ("snr", "variance", "signal")))
            for arm, row in arms.items()
        ]
        note = "Over microbatches of 8 pairs: |E G|² / tr Cov G, tr Cov G, |E G|². Means over seeds."
        caption = f"Gradient noise at the policy {policy}{label}"
        tables.append(Table(caption, ("arm", "signal-to-noise", "variance", "signal"), tuple(lines), note))
    return tables


def _number(entry: Mapping[str, Any]) -> str:
    half = "" if entry["low"] is None else f" ± {entry['high'] - entry['mean']:.2g}"
    return f"{entry['mean']:.3g}{half}"


def _tuning_tables(values: Mapping[str, Any], label: str) -> list[Table]:
    tables = []
    for arm, entry in values.items():
        grid = entry["probe_accuracy"]
        steps = list(next(iter(grid.values())))
        best = entry["best"]
        lines = [
            (
                Cell(value),
                *(
                    Cell(f"{100 * row[s]:.1f}", is_best=(float(value), int(s)) == (best["value"], best["step"]))
                    for s in steps
                ),
            )
            for value, row in grid.items()
        ]
        tables.append(Table(f"Probe accuracy of {arm}, % by optimizer step{label}", ("value", *steps), tuple(lines)))
    return tables


# -- plots -------------------------------------------------------------------------------------------------------------


def study_plots(result: Result) -> list[Plot]:
    """Accuracy of every arm or along the axis, and probe accuracy over training where it was measured."""
    with drawing():
        plots = [_axis_plot(result), _dots_plot(result), _probe_plot(result)]
    return [plot for plot in plots if plot is not None]


def _points(result: Result) -> dict[str, list[tuple[float, Interval]]]:
    """Average accuracy along the study's axis: swept values within a condition, or the conditions' own places."""
    rows = conditions(result)
    lines: dict[str, list[tuple[float, Interval]]] = {}
    if any(row["x"] is not None for row in rows):
        for row in rows:
            for arm, values in row["arms"].items():
                if row["x"] is not None and values["average"] and None not in values["average"]:
                    lines.setdefault(arm, []).append((float(row["x"]), seed_interval(values["average"])))
        return lines
    for values in result["arms"].values():
        if values["value"] is not None and None not in values["average"]:
            lines.setdefault(values["origin"], []).append((float(values["value"]), seed_interval(values["average"])))
    return {arm: sorted(line, key=lambda point: point[0]) for arm, line in lines.items()}


def _axis_plot(result: Result) -> Plot | None:
    lines = _points(result)
    if not lines:
        return None
    constant = {
        arm: seed_interval(values["average"])
        for arm, values in result["arms"].items()
        if not any(row["x"] is not None for row in conditions(result))
        and values["value"] is None
        and None not in values["average"]
    }
    keys = arm_keys([*constant, *lines])
    figure, axes = new_axes(5.6, 3.4)
    xs = sorted({x for line in lines.values() for x, _ in line})
    if len(xs) > 2 and xs[0] > 0 and xs[-1] / xs[0] >= 8:
        axes.set_xscale("log")
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.minorticks_off()
    for arm, line in lines.items():
        _errorbar(axes, keys[arm], [x for x, _ in line], [interval for _, interval in line])
    for arm, interval in constant.items():
        axes.axhline(100 * interval.estimate, color=keys[arm].colour, linestyle="--", linewidth=1)
    axes.set(xlabel=result["axis"], ylabel="average accuracy, %")
    spoken = "; ".join(
        f"{arm} " + ", ".join(f"{100 * i.estimate:.1f} at {x:g}" for x, i in line) for arm, line in lines.items()
    )
    panel = to_panel(figure, salt=f"axis-{result['study']}", alt=f"Average accuracy by {result['axis']}: {spoken}.")
    reading = "Mean over seeds with its 95 % interval; dashed lines are arms that do not vary."
    return Plot(f"Accuracy by {result['axis']}", reading, [panel], list(keys.values()))


def _errorbar(axes: Any, key: Key, xs: Sequence[float], intervals: Sequence[Interval]) -> None:
    means = np.array([100 * interval.estimate for interval in intervals])
    axes.plot(xs, means, color=key.colour, marker=marker(key), markersize=5)
    for x, interval in zip(xs, intervals, strict=True):
        if np.isfinite(interval.low):
            axes.plot([x, x], [100 * interval.low, 100 * interval.high], color=key.colour, linewidth=1, alpha=0.6)


def _dots_plot(result: Result) -> Plot | None:
    """Arms as rows, for a study without an axis."""
    if _points(result):
        return None
    panels = []
    for row in conditions(result):
        arms = {
            arm: seed_interval(values["average"])
            for arm, values in row["arms"].items()
            if arm != "vanilla" and None not in values["average"]
        }
        if not arms:
            continue
        figure, axes = new_axes(6.2, 0.9 + 0.28 * len(arms))
        key, title = arm_keys(["arm"])["arm"], row["condition"] if len(conditions(result)) > 1 else ""
        for place, interval in enumerate(arms.values()):
            if np.isfinite(interval.low):
                axes.plot([100 * interval.low, 100 * interval.high], [place, place], color=key.colour, linewidth=1.4)
            axes.plot([100 * interval.estimate], [place], marker="o", markersize=5, color=key.colour)
        axes.set(yticks=range(len(arms)), yticklabels=list(arms), xlabel="average accuracy, %", title=title)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        spoken = ", ".join(f"{arm} {100 * interval.estimate:.1f}" for arm, interval in arms.items())
        salt = f"dots-{result['study']}-{row['condition']}"
        panels.append(to_panel(figure, salt=salt, alt=f"Average accuracy in percent: {spoken}."))
    if not panels:
        return None
    reading = "Average accuracy over the suites, mean over seeds, with its 95 % interval; without the untuned policy."
    return Plot("Accuracy of the arms", reading, panels)


def _probe_plot(result: Result) -> Plot | None:
    panels: list[Panel] = []
    rows = conditions(result)
    keys = arm_keys(dict.fromkeys(arm for row in rows for arm, v in row["arms"].items() if len(v["probe"]) > 1))
    if not keys or len(keys) > 12:
        return None
    for row in rows:
        figure, axes = new_axes(5.6, 3.4)
        for arm, values in row["arms"].items():
            if len(values["probe"]) < 2:
                continue
            steps = [point["step"] for point in values["probe"]]
            means = [100 * point["mean"] for point in values["probe"]]
            axes.plot(steps, means, color=keys[arm].colour, marker=marker(keys[arm]), markersize=4)
            if values["probe"][0]["low"] is not None:
                low, high = ([100 * point[bound] for point in values["probe"]] for bound in ("low", "high"))
                axes.fill_between(steps, low, high, color=keys[arm].colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="optimizer step", ylabel="probe accuracy, %", title=row["condition"] if len(rows) > 1 else "")
        alt = f"Probe accuracy by step, {row['condition']}."
        panels.append(to_panel(figure, salt=f"probe-{result['study']}-{row['condition']}", alt=alt))
    reading = "Greedy accuracy on the probe problems by optimizer step: mean over seeds, band: 95 % interval."
    return Plot("Probe accuracy over training", reading, panels, list(keys.values()))


def _standalone(panel: Panel) -> str:
    """An inline panel as an SVG file of its own, light colours, white ground."""
    name_space = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    text = panel.svg.replace("<svg ", name_space + 'style="background:#fff;font-family:sans-serif" ', 1)
    return text.replace("href=", "xlink:href=")


def _seeds(result: Result) -> str:
    return ", ".join(str(seed) for seed in result["seeds"])
