"""Plots of the selection: the stability-informativeness plane, margins of kept and dropped pairs, the pool's strata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sage_dpo.config import PoolSettings, SelectorSettings
from sage_dpo.core.strata import STRATA, assign_strata
from sage_dpo.report.figure import (
    DROPPED,
    INK,
    KEPT,
    STRATUM_COLOURS,
    UNUSABLE_COLOURS,
    Key,
    Panel,
    Plot,
    evenly,
    new_axes,
    to_panel,
)
from sage_dpo.report.run import ArmRun, Columns, Refresh

MAX_PANELS, MAX_BARS = 4, 12
KEPT_DROPPED = [Key("kept", KEPT, "●"), Key("dropped", DROPPED, "×")]
_DIFFICULTY_COLOURS = {
    "never solved": UNUSABLE_COLOURS["never solved"],
    **dict(reversed(STRATUM_COLOURS.items())),
    "always solved": UNUSABLE_COLOURS["always solved"],
}


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
    shown = _shown(arm)
    tables = [refresh.scores for refresh in shown if refresh.scores is not None]
    if not tables or not _varies(np.concatenate([table["informativeness"] for table in tables])):
        return None
    settings = arm.config.selection if arm.config else SelectorSettings.model_validate({})
    limits = [_limits(np.concatenate([table[name] for table in tables])) for name in ("margin", "informativeness")]
    levels = _levels(np.concatenate([table["utility"] for table in tables])) if settings.selector == "sage" else []
    limit, panels, notes = points // len(tables), [], _subset_note(arm, shown)
    for refresh, table in zip(shown, tables, strict=True):
        rows = _sample(len(table["margin"]), limit, rng)
        panels.append(_plane_panel(arm.name, refresh.version, table, rows, limits, levels, settings))
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
    return Plot(f"Stability and informativeness of the candidates: {arm.name}", reading, panels, KEPT_DROPPED, notes)


def _plane_panel(
    arm: str,
    version: int,
    table: Columns,
    rows: NDArray[np.int64],
    limits: Sequence[tuple[float, float]],
    levels: Sequence[float],
    settings: SelectorSettings,
) -> Panel:
    figure, axes = new_axes(height=3.1)
    kept = table["is_kept"][rows].astype(bool)
    for chosen, colour, symbol, size in ((~kept, DROPPED, "x", 2.8), (kept, KEPT, "o", 3.0)):
        x, y = table["margin"][rows][chosen], table["informativeness"][rows][chosen]
        axes.plot(x, y, symbol, color=colour, markersize=size, alpha=0.55, markeredgewidth=0.8 if symbol == "x" else 0)
    axes.axvline(0.0, color=INK, linewidth=0.9, linestyle="--", alpha=0.7)
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


def margin_plot(arm: ArmRun) -> Plot | None:
    """Margin histograms of kept and dropped candidates, one panel a refresh."""
    shown = _shown(arm)
    tables = [refresh.scores for refresh in shown if refresh.scores is not None]
    if not tables:
        return None
    limits = _limits(np.concatenate([table["margin"] for table in tables]))
    edges = np.linspace(*limits, 31)
    kept_of = [table["is_kept"].astype(bool) for table in tables]
    counts = [
        [np.histogram(t["margin"][m], edges)[0] for m in (kept, ~kept)] for t, kept in zip(tables, kept_of, strict=True)
    ]
    highest = 1.05 * max(1, *(int(heights.max()) for pair in counts for heights in pair))
    panels = []
    for refresh, table, kept, pair in zip(shown, tables, kept_of, counts, strict=True):
        figure, axes = new_axes()
        for heights, colour, dashes in zip(pair, (KEPT, DROPPED), ("-", "--"), strict=True):
            axes.stairs(heights, edges, color=colour, linewidth=1.5, linestyle=dashes)
            axes.stairs(heights, edges, color=colour, fill=True, alpha=0.18, linewidth=0)
        axes.axvline(0.0, color=INK, linewidth=0.9, linestyle="--", alpha=0.7)
        axes.set(xlim=limits, ylim=(0, highest), title=f"Refresh {refresh.version}")
        axes.set(xlabel="margin m, scaled nats", ylabel="candidates")
        below = [f"{np.mean(table['margin'][mask] < 0):.0%}" if mask.any() else "none" for mask in (kept, ~kept)]
        alt = f"Margins of arm {arm.name} at refresh {refresh.version}: below 0 are {below[0]} of the kept candidates "
        alt += f"and {below[1]} of the dropped."
        panels.append(to_panel(figure, salt=f"margin-{arm.name}-{refresh.version}", alt=alt))
    reading = (
        "How many candidates had which margin: solid outline kept, dashed outline dropped. Left of the dashed line "
        "at m = 0 the policy prefers the rejected answer. From refresh to refresh the whole distribution shows how "
        "often the policy is still wrong on its own samples. Axes cover the middle 99 % of the values."
    )
    keys = [Key("kept", KEPT, "━"), Key("dropped", DROPPED, "╍")]
    return Plot(f"Margins of kept and dropped candidates: {arm.name}", reading, panels, keys, _subset_note(arm, shown))


def strata_plot(arms: Iterable[ArmRun]) -> Plot | None:
    """Problems by success rate at each refresh, one panel an arm; pairs or candidates where there are no verdicts."""
    panels, others = [], []
    for arm in arms:
        shares, counted = _strata_by_refresh(arm)
        if shares:
            panels.append(_strata_panel(arm.name, shares, counted))
            others += [f"{arm.name}: shares of {counted}."] if counted != "problems" else []
    if not panels:
        return None
    reading = (
        "Problems by the share of the policy's own samples that were correct at each refresh, from never solved "
        "(bottom) over hard, medium and easy to always solved (top). The three in the middle yield preference pairs. "
        "The two ends give none, because all samples of such a problem are wrong or all are right (unless a reference "
        "solution stands in for the missing right one)."
    )
    notes = ["Without verdicts, other shares are shown.", *others] if others else []
    keys = [Key(name, colour, "■") for name, colour in _DIFFICULTY_COLOURS.items()]
    return Plot("Difficulty of the problems by refresh", reading, panels, keys, notes)


def _strata_panel(arm: str, shares: dict[int, dict[str, float]], counted: str) -> Panel:
    figure, axes = new_axes()
    bottom = np.zeros(len(shares))
    for name, colour in _DIFFICULTY_COLOURS.items():
        height = np.array([100 * share.get(name, 0.0) for share in shares.values()])
        axes.bar([str(version) for version in shares], height, 0.72, bottom=bottom, color=colour)
        bottom += height
    axes.set(ylim=(0, 100), xlabel="refresh", ylabel=f"share of {counted}, %", title=arm)
    axes.grid(visible=False, axis="x")
    spoken = "; ".join(
        f"refresh {version}: " + ", ".join(f"{name} {value:.0%}" for name, value in share.items())
        for version, share in shares.items()
    )
    return to_panel(figure, salt=f"strata-{arm}", alt=f"Shares of {counted} by difficulty for arm {arm}. {spoken}.")


def _strata_by_refresh(arm: ArmRun) -> tuple[dict[int, dict[str, float]], str]:
    """Return shares by refresh and what they are shares of: problems if verdicts exist, else pairs, else candidates."""
    settings = arm.config.pool if arm.config else PoolSettings.model_validate({})
    versions = evenly([refresh.version for refresh in arm.refreshes], MAX_BARS)
    refreshes = [refresh for refresh in arm.refreshes if refresh.version in versions]
    rates = {r.version: r.success_rates for r in refreshes if r.success_rates is not None and r.success_rates.size}
    if rates:
        return {version: _problem_shares(values, settings) for version, values in rates.items()}, "problems"
    paired = {r.version: r.pair_success_rates for r in refreshes if r.pair_success_rates is not None}
    known = {version: values[np.isfinite(values)] for version, values in paired.items()}
    if any(values.size for values in known.values()):
        return {version: _stratum_shares(values, settings) for version, values in known.items() if values.size}, "pairs"
    drawn = {r.version: r.scores["stratum"].astype(str) for r in refreshes if r.scores is not None}
    shares = {v: {str(s): float(np.mean(names == str(s))) for s in STRATA} for v, names in drawn.items()}
    return {version: share for version, share in shares.items() if sum(share.values())}, "candidates"


def _problem_shares(rates: NDArray[np.float64], settings: PoolSettings) -> dict[str, float]:
    ends = {"never solved": float(np.mean(rates == 0)), "always solved": float(np.mean(rates == 1))}
    between = (rates > 0) & (rates < 1)
    strata = _stratum_shares(rates[between], settings) if between.any() else {}
    return {**ends, **{name: float(share * between.mean()) for name, share in strata.items()}}


def _stratum_shares(rates: NDArray[np.float64], settings: PoolSettings) -> dict[str, float]:
    codes = assign_strata(rates, easy_min=settings.easy_min, hard_max=settings.hard_max)
    return {str(stratum): float(np.mean(codes == code)) for code, stratum in enumerate(STRATA)}


def _shown(arm: ArmRun) -> list[Refresh]:
    versions = evenly([refresh.version for refresh in arm.scored], MAX_PANELS)
    return [refresh for refresh in arm.scored if refresh.version in versions]


def _subset_note(arm: ArmRun, shown: Sequence[Refresh]) -> list[str]:
    missing = len(arm.scored) - len(shown)
    return [f"{len(shown)} of {len(arm.scored)} refreshes shown, evenly spaced."] if missing else []


def _sample(size: int, limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(size) if size <= limit else np.sort(rng.choice(size, limit, replace=False))


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 99 % of the values, padded by 4 %; never empty."""
    low, high = np.quantile(values.astype(np.float64), (0.005, 0.995))
    padding = 0.04 * (high - low) or 0.5
    return float(low - padding), float(high + padding)


def _varies(values: NDArray[np.float64]) -> bool:
    finite = values[np.isfinite(values)]
    return finite.size == values.size and finite.size > 0 and bool(np.ptp(finite) > 1e-9)


def _median(values: NDArray[np.float64]) -> str:
    return f"{np.median(values):.3g}" if values.size else "none"
