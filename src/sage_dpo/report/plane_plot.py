"""The stability-informativeness plane: which candidates a selector kept, over the level lines of the utility."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sage_dpo.config import SelectorSettings
from sage_dpo.report.figure import DROPPED, INK, KEPT, Key, Panel, Plot, new_axes, to_panel, varies
from sage_dpo.report.run import ArmRun, Columns
from sage_dpo.report.selection_plots import middle_range, shown_refreshes, subset_note


def plane_plot(arm: ArmRun, *, points: int, rng: np.random.Generator) -> Plot | None:
    """The stability-informativeness plane: candidates by margin (x) and informativeness J (y), contours of S.

    Why these axes: g and h are both functions of the margin m, so S = g^2 J / (h J + lambda) is a function of (m, J)
    and its level lines can be drawn; over (h, J) it would have two values, one for each sign of m. Stability is read
    off the same axis: curvature h peaks at m = 0 (dashed line) and falls away to both sides.

    Args:
        arm: with scores; `None` is returned if it has none, or all of them have the same J.
        points: at most so many points are drawn in all panels together.
        rng: draws the points shown.
    """
    shown = shown_refreshes(arm)
    tables = [refresh.scores for refresh in shown if refresh.scores is not None]
    if not tables or not varies(np.concatenate([table["informativeness"] for table in tables])):
        return None
    settings = arm.config.selection if arm.config else SelectorSettings.model_validate({})
    limits = [middle_range(np.concatenate([table[name] for table in tables])) for name in ("margin", "informativeness")]
    levels = _levels(np.concatenate([table["utility"] for table in tables])) if settings.selector == "sage" else []
    gate = arm.series("sage/gate/threshold")[1][:1].tolist()
    limit, panels, notes = points // len(tables), [], subset_note(arm, shown)
    for refresh, table in zip(shown, tables, strict=True):
        rows = _sample(len(table["margin"]), limit, rng)
        panels.append(_plane_panel(arm.name, refresh.version, table, rows, limits, levels, settings, gate))
    most = max(len(table["margin"]) for table in tables)
    if most > limit:
        notes.append(
            f"Each panel shows at most {limit:,} of up to {most:,} candidates, drawn at random with a fixed seed."
        )
    notes.append("Axes cover the middle 99 % of the values; the rest lies outside the frame.")
    reading = (
        "Every point is a candidate pair at the step for which it was considered. Left: the policy prefers the "
        "rejected answer (confident error); right: it prefers the chosen one already; the dashed line at m = 0 is "
        "the decision boundary, where curvature h is highest and a step is least stable. Up: the pair's gradient in "
        f"logit space is larger. Grey lines join pairs of equal utility S at damping λ = {settings.damping:g}; S "
        "rises to the upper left. A cut within strata, or over the candidates of each step, keeps pairs relative to "
        "their rivals, so kept and dropped points may overlap here."
    )
    if gate:
        reading += f" The dotted line is the gate at m = {gate[0]:.3g}: pairs to its right are shut."
    keys = [Key("kept", KEPT, "●"), Key("dropped", DROPPED, "×")]
    return Plot(f"Stability and informativeness of the candidates: {arm.name}", reading, panels, keys, notes)


def _plane_panel(
    arm: str,
    version: int,
    table: Columns,
    rows: NDArray[np.int64],
    limits: Sequence[tuple[float, float]],
    levels: Sequence[float],
    settings: SelectorSettings,
    gate: Sequence[float],
) -> Panel:
    figure, axes = new_axes(height=3.1)
    kept = table["is_kept"][rows].astype(bool)
    for chosen, colour, symbol, size in ((~kept, DROPPED, "x", 2.8), (kept, KEPT, "o", 3.0)):
        x, y = table["margin"][rows][chosen], table["informativeness"][rows][chosen]
        axes.plot(x, y, symbol, color=colour, markersize=size, alpha=0.55, markeredgewidth=0.8 if symbol == "x" else 0)
    axes.axvline(0.0, color=INK, linewidth=0.9, linestyle="--", alpha=0.7)
    for threshold in gate:
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=":")
    axes.set(xlim=limits[0], ylim=limits[1])
    if levels:
        _contours(axes, limits, levels, settings)
    axes.set(xlabel="margin m, scaled nats", ylabel="informativeness J", title=f"Refresh {version}")
    every = table["is_kept"].astype(bool)
    spoken = "; ".join(
        f"{name}: {int(mask.sum())} pairs, median margin {_median(table['margin'][mask])}, "
        f"median informativeness {_median(table['informativeness'][mask])}"
        for name, mask in (("kept", every), ("dropped", ~every))
    )
    alt = f"Candidates of arm {arm} at refresh {version} by margin and informativeness. {spoken}."
    return to_panel(figure, salt=f"plane-{arm}-{version}", alt=alt)


def _levels(utilities: NDArray[np.float64]) -> list[float]:
    """Levels of S to draw: quantiles of the candidates' utilities, rounded to one digit."""
    return sorted({float(f"{q:.1g}") for q in np.quantile(utilities.astype(np.float64), (0.1, 0.3, 0.5, 0.7, 0.9))})


def _contours(
    axes: Axes, limits: Sequence[tuple[float, float]], levels: Sequence[float], settings: SelectorSettings
) -> None:
    """Draw the lines on which the utility S(m, J) has the given levels."""
    import torch  # for core's formula only; the rest of the report does without

    from sage_dpo.core.utility import sage_utility

    margins = np.linspace(*limits[0], 81)
    informativeness = np.linspace(max(limits[1][0], 0.0), limits[1][1], 61)
    x, y = np.meshgrid(margins, informativeness)
    utility = sage_utility(
        torch.from_numpy(x),
        torch.from_numpy(y) if settings.use_informativeness else None,
        damping=settings.damping,
        use_gradient_signal=settings.use_gradient_signal,
        use_curvature=settings.use_curvature,
    ).numpy()
    inside = [level for level in levels if utility.min() < level < utility.max()]
    if inside:
        lines = axes.contour(x, y, utility, levels=inside, colors=INK, linewidths=0.8, alpha=0.75)
        axes.clabel(lines, fmt="%g", fontsize=8.5, colors=INK)


def _sample(size: int, limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(size) if size <= limit else np.sort(rng.choice(size, limit, replace=False))


def _median(values: NDArray[np.float64]) -> str:
    return f"{np.median(values):.3g}" if values.size else "none"
