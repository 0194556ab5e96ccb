"""The results of a study, told: `results.json` as text (Markdown, terminal) and as a page with plots.

Everything here is drawn from `results.json` alone, so a published file can be told again without its run folders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sage_dpo.core.statistics import Interval, seed_interval
from sage_dpo.report.figure import Key, Panel, Plot, arm_keys, css_variables, drawing, marker, new_axes, to_panel
from sage_dpo.report.page import template_environment
from sage_dpo.report.study_tables import Result, conditions, study_tables
from sage_dpo.report.tables import render_markdown, render_plain
from sage_dpo.storage import read_json, write_text

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


def _untuned(result: Result) -> set[str]:
    """Arms of the policy as it was: no optimizer step in any condition."""
    return {arm for row in conditions(result) for arm, values in row["arms"].items() if not values["steps"]}


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
    keys = arm_keys([*constant, *lines], _untuned(result))
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
            if values["steps"] and None not in values["average"]
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
