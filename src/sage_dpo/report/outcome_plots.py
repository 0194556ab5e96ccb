"""Plots of outcomes: accuracy by suite, accuracy against cost, curves over training. One function per plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sage_dpo.report.figure import INK, Key, Panel, Plot, marker, new_axes, plain_ticks, thin_line, to_panel
from sage_dpo.report.run import ArmRun
from sage_dpo.report.summary import Bounds, Summary, percent, percent_interval

ROWS_PER_PANEL = 5


def accuracy_plot(summary: Summary, keys: dict[str, Key]) -> Plot | None:
    """Accuracy of every arm by suite as points with 95 % intervals; the average first."""
    rows: list[_Row] = [("average", {name: (arm.average, arm.average_interval) for name, arm in summary.arms.items()})]
    for suite in summary.suites:
        values = {n: (arm.suites.get(suite), arm.suite_intervals.get(suite)) for n, arm in summary.arms.items()}
        rows.append((suite, values))
    rows = [row for row in rows if any(value is not None for value, _ in row[1].values())]
    if not rows:
        return None
    entries = [entry for _, arms in rows for entry in arms.values()]
    edges = [100 * edge for value, interval in entries for edge in (value, *(interval or ())) if edge is not None]
    margin = max(2.0, 0.04 * (max(edges) - min(edges)))
    limits = max(min(edges) - margin, -1.0), min(max(edges) + margin, 101.0)
    panels = [
        _accuracy_panel(rows[first : first + ROWS_PER_PANEL], limits, keys, salt=f"accuracy{first}")
        for first in range(0, len(rows), ROWS_PER_PANEL)
    ]
    reading = (
        "Each point is the share of a suite's problems answered correctly, in percent; the line through it is the "
        "95 % bootstrap interval over problems. Further right is better. The average is the mean of the suites. "
        "Overlapping intervals do not by themselves show that two arms are equal: the table of differences compares "
        "them problem by problem, which is sharper."
    )
    return Plot("Accuracy by suite", reading, panels, list(keys.values()))


_Row = tuple[str, dict[str, tuple[float | None, Bounds | None]]]


def _accuracy_panel(rows: Sequence[_Row], limits: tuple[float, float], keys: dict[str, Key], *, salt: str) -> Panel:
    arms = list(keys)
    spacing = min(0.16, 0.75 / max(len(arms), 1))
    figure, axes = new_axes(height=0.75 + len(rows) * max(0.5, 0.13 * len(arms)))
    for row, (_, values) in enumerate(rows):
        for place, arm in enumerate(arms):
            value, interval = values.get(arm, (None, None))
            if value is None:
                continue
            y, key = row + (place - (len(arms) - 1) / 2) * spacing, keys[arm]
            if interval:
                axes.plot([100 * interval[0], 100 * interval[1]], [y, y], color=key.colour, linewidth=1.2, alpha=0.75)
            axes.plot([100 * value], [y], marker=marker(key), color=key.colour, markersize=5)
    axes.set(yticks=range(len(rows)), yticklabels=[name for name, _ in rows], xlim=limits, xlabel="accuracy, %")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for edge in range(1, len(rows)):
        axes.axhline(edge - 0.5, color=INK, linewidth=0.4, alpha=0.25)
    spoken = (
        f"{name}: " + ", ".join(f"{arm} {percent(v)} ({percent_interval(i)})" for arm, (v, i) in values.items())
        for name, values in rows
    )
    return to_panel(figure, salt=salt, alt="Accuracy in percent with 95 % intervals. " + "; ".join(spoken) + ".")


_COST_AXES = (
    ("train_tokens", "tokens trained"),
    ("scored_tokens", "tokens scored"),
    ("wall_s", "wall-clock, minutes"),
)


def cost_plot(summary: Summary, keys: dict[str, Key]) -> Plot | None:
    """Average accuracy against what it cost: tokens trained, tokens scored, wall-clock."""
    panels = []
    for cost, label in _COST_AXES:
        points = {
            name: (arm.costs[cost] / (60.0 if cost == "wall_s" else 1.0), arm.average, arm.average_interval)
            for name, arm in summary.arms.items()
            if arm.average is not None and cost in arm.costs
        }
        if len({x for x, _, _ in points.values()}) < 2:
            continue
        figure, axes = new_axes()
        for name, (x, average, interval) in points.items():
            assert average is not None
            if interval:
                axes.plot(
                    [x, x], [100 * interval[0], 100 * interval[1]], color=keys[name].colour, linewidth=1.2, alpha=0.75
                )
            axes.plot([x], [100 * average], marker=marker(keys[name]), color=keys[name].colour, markersize=7)
        axes.set(xlabel=label, ylabel="average accuracy, %", title=f"Accuracy and {label.split(',')[0]}")
        right = max(x for x, _, _ in points.values())
        axes.set_xlim(-0.05 * right, 1.06 * right)
        plain_ticks(axes)
        spoken = ", ".join(f"{name} {percent(a)} at {x:,.6g}" for name, (x, a, _) in points.items())
        panels.append(
            to_panel(figure, salt=f"cost-{cost}", alt=f"Average accuracy in percent against {label}: {spoken}.")
        )
    if not panels:
        return None
    reading = (
        "Each point is one arm at the end of training: the average accuracy (with its 95 % interval) against what "
        "the arm cost. Further up is better, further left is cheaper. Tokens trained are those of pairs that "
        "received a gradient; scoring is a forward pass only, so a scored token costs about a third of a trained "
        "one. Wall-clock depends on the machine and on what else ran there."
    )
    return Plot("Accuracy against cost", reading, panels, list(keys.values()))


_CURVES: tuple[tuple[str, str, str, float], ...] = (
    ("probe/accuracy", "Greedy accuracy on the probe problems", "%", 100.0),
    ("loss", "DPO loss of the trained pairs", "nats", 1.0),
    ("rewards/margins", "Reward margin of the trained pairs", "scaled nats", 1.0),
    ("rewards/accuracies", "Trained pairs with positive reward margin", "%", 100.0),
    ("sage/gate/open", "Candidates that the gate leaves open", "%", 100.0),
    ("sage/tokens_trained", "Tokens trained since the start", "tokens", 1.0),
    ("sage/tokens_scored", "Tokens scored since the start", "tokens", 1.0),
)


def curves_plot(arms: Iterable[ArmRun], keys: dict[str, Key]) -> Plot | None:
    """Logged quantities by optimizer step, one line an arm."""
    trained = [arm for arm in arms if arm.metrics]
    panels: list[Panel | None] = []
    for metric, label, unit, scale in _CURVES:
        panels.append(_curve_panel(trained, metric, label, unit, scale, keys))
        if metric == "probe/accuracy":
            panels.append(_probe_by_tokens(trained, keys))
    drawn = [panel for panel in panels if panel is not None]
    if not drawn:
        return None
    reading = (
        "One line per arm over optimizer steps. The probe problems are held out from training and from the suites, "
        "so the first panel shows learning, and the second one shows it against the tokens that were trained on. "
        "Loss and reward margin are those of the pairs each arm trained on: an arm that chooses pairs the policy "
        "gets wrong has a higher loss by choice, so these lines do not rank arms."
    )
    return Plot("Curves over training", reading, drawn, [keys[arm.name] for arm in trained])


def _curve_panel(
    arms: Sequence[ArmRun], metric: str, label: str, unit: str, scale: float, keys: dict[str, Key]
) -> Panel | None:
    series = {arm.name: arm.series(metric) for arm in arms}
    lines = {name: (steps, scale * values) for name, (steps, values) in series.items() if steps.size}
    if not lines:
        return None
    ends = ", ".join(f"{name} from {values[0]:.4g} to {values[-1]:.4g}" for name, (_, values) in lines.items())
    alt = f"{label} by optimizer step, {unit}: {ends}."
    bottom = 0.0 if unit.startswith("tokens") else None
    return _lines_panel(
        lines, keys, salt=f"curve-{metric}", alt=alt, bottom=bottom, title=label, xlabel="optimizer step", ylabel=unit
    )


def _probe_by_tokens(arms: Sequence[ArmRun], keys: dict[str, Key]) -> Panel | None:
    """Probe accuracy against tokens trained so far: arms that train on fewer pairs a step move right more slowly."""
    lines = {}
    for arm in arms:
        (steps, accuracy), (token_steps, tokens) = arm.series("probe/accuracy"), arm.series("sage/tokens_trained")
        if steps.size and tokens.size:
            so_far = np.interp(steps, np.insert(token_steps, 0, 0.0), np.insert(tokens, 0, 0.0))
            lines[arm.name] = so_far, 100 * accuracy
    if not lines:
        return None
    ends = ", ".join(f"{name} {y[-1]:.1f} at {x[-1]:,.0f} tokens" for name, (x, y) in lines.items())
    alt = f"Accuracy on the probe problems by tokens trained: {ends}."
    title = "The same, by tokens trained"
    return _lines_panel(
        lines, keys, salt="curve-probe-tokens", alt=alt, title=title, xlabel="tokens trained", ylabel="%"
    )


def _lines_panel(
    lines: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    keys: dict[str, Key],
    *,
    salt: str,
    alt: str,
    bottom: float | None = None,
    **labels: str,
) -> Panel:
    """Draw one line an arm, with a few markers on it."""
    figure, axes = new_axes()
    for name, line in lines.items():
        x, y = thin_line(*line)
        every = max(1, x.size // 6)
        axes.plot(x, y, color=keys[name].colour, marker=marker(keys[name]), markersize=4, markevery=every)
    axes.set(**labels)
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    plain_ticks(axes)
    return to_panel(figure, salt=salt, alt=alt)
