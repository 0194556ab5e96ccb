"""The plots of a study: accuracy along its axis or of every arm, and probe accuracy over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sage_dpo.core.statistics import Interval, seed_interval
from sage_dpo.report.figure import Plot, arm_keys, drawing, marker, new_axes, present, to_panel
from sage_dpo.report.study_tables import StudyResult, conditions

_MOST_LINES = 12


def study_plots(result: StudyResult) -> list[Plot]:
    """Accuracy of every arm or along the axis, and probe accuracy over training where it was measured."""
    with drawing():
        lines = _lines_along_axis(result)
        accuracy = _axis_plot(result, lines) if lines else _dots_plot(result)
        return present([accuracy, _probe_plot(result)])


def _lines_along_axis(result: StudyResult) -> dict[str, list[tuple[float, Interval]]]:
    """Average accuracy along the study's axis: swept values within a condition, or the conditions' own places."""
    lines: dict[str, list[tuple[float, Interval]]] = {}
    if _has_places(result):
        for row in conditions(result):
            for arm, values in row["arms"].items():
                if row["x"] is not None and _is_known(values):
                    lines.setdefault(arm, []).append((float(row["x"]), seed_interval(values["average"])))
        return lines
    for values in result["arms"].values():
        if values["value"] is not None and _is_known(values):
            lines.setdefault(values["origin"], []).append((float(values["value"]), seed_interval(values["average"])))
    return {arm: sorted(line, key=lambda point: point[0]) for arm, line in lines.items()}


def _has_places(result: StudyResult) -> bool:
    """Whether the conditions, not an arm's swept values, make up the axis."""
    return any(row["x"] is not None for row in conditions(result))


def _is_known(values: Mapping[str, Any]) -> bool:
    """Whether an arm was evaluated under every seed."""
    return bool(values["average"]) and None not in values["average"]


def _untuned(result: StudyResult) -> set[str]:
    """Arms of the policy as it was: no optimizer step in any condition."""
    return {arm for row in conditions(result) for arm, values in row["arms"].items() if not values["steps"]}


def _axis_plot(result: StudyResult, lines: Mapping[str, list[tuple[float, Interval]]]) -> Plot:
    constant = {
        arm: seed_interval(values["average"])
        for arm, values in result["arms"].items()
        if not _has_places(result) and values["value"] is None and _is_known(values)
    }
    keys = arm_keys([*constant, *lines], _untuned(result))
    figure, axes = new_axes(5.6, 3.4)
    xs = sorted({x for line in lines.values() for x, _ in line})
    if len(xs) > 2 and xs[0] > 0 and xs[-1] / xs[0] >= 8:
        axes.set_xscale("log")
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.minorticks_off()
    for arm, line in lines.items():
        colour, means = keys[arm].colour, np.array([100 * interval.estimate for _, interval in line])
        axes.plot([x for x, _ in line], means, color=colour, marker=marker(keys[arm]), markersize=5)
        for x, interval in line:
            _bar(axes, [x, x], interval, vertical=True, color=colour, linewidth=1, alpha=0.6)
    for arm, interval in constant.items():
        axes.axhline(100 * interval.estimate, color=keys[arm].colour, linestyle="--", linewidth=1)
    axes.set(xlabel=result["axis"], ylabel="average accuracy, %")
    spoken = "; ".join(
        f"{arm} " + ", ".join(f"{100 * i.estimate:.1f} at {x:g}" for x, i in line) for arm, line in lines.items()
    )
    panel = to_panel(figure, salt=f"axis-{result['study']}", alt=f"Average accuracy by {result['axis']}: {spoken}.")
    reading = "Mean over seeds with its 95 % interval; dashed lines are arms that do not vary."
    return Plot(f"Accuracy by {result['axis']}", reading, [panel], list(keys.values()))


def _dots_plot(result: StudyResult) -> Plot | None:
    """Arms as rows, for a study without an axis; one panel a condition."""
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
        colour = arm_keys(["arm"])["arm"].colour
        for place, interval in enumerate(arms.values()):
            _bar(axes, [place, place], interval, color=colour, linewidth=1.4)
            axes.plot([100 * interval.estimate], [place], marker="o", markersize=5, color=colour)
        axes.set(yticks=range(len(arms)), yticklabels=list(arms), xlabel="average accuracy, %")
        axes.set(title=_title(result, row), ylim=(len(arms) - 0.5, -0.5))
        spoken = ", ".join(f"{arm} {100 * interval.estimate:.1f}" for arm, interval in arms.items())
        salt = f"dots-{result['study']}-{row['condition']}"
        panels.append(to_panel(figure, salt=salt, alt=f"Average accuracy in percent: {spoken}."))
    if not panels:
        return None
    reading = "Average accuracy over the suites, mean over seeds, with its 95 % interval; without the untuned policy."
    return Plot("Accuracy of the arms", reading, panels)


def _bar(axes: Axes, place: Sequence[float], interval: Interval, *, vertical: bool = False, **style: Any) -> None:
    """Draw an interval in percent as a line; a single seed has none."""
    if np.isfinite(interval.low):
        bounds = [100 * interval.low, 100 * interval.high]
        axes.plot(*((place, bounds) if vertical else (bounds, place)), **style)


def _probe_plot(result: StudyResult) -> Plot | None:
    rows = conditions(result)
    keys = arm_keys(dict.fromkeys(arm for row in rows for arm, v in row["arms"].items() if len(v["probe"]) > 1))
    if not keys or len(keys) > _MOST_LINES:
        return None
    panels = []
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
        axes.set(xlabel="optimizer step", ylabel="probe accuracy, %", title=_title(result, row))
        alt = f"Probe accuracy by step, {row['condition']}."
        panels.append(to_panel(figure, salt=f"probe-{result['study']}-{row['condition']}", alt=alt))
    reading = "Greedy accuracy on the probe problems by optimizer step: mean over seeds, band: 95 % interval."
    return Plot("Probe accuracy over training", reading, panels, list(keys.values()))


def _title(result: StudyResult, row: Mapping[str, Any]) -> str:
    """A panel's title: the condition, where there are several."""
    return row["condition"] if len(conditions(result)) > 1 else ""
