"""Plots of the selection: margins of kept and dropped pairs, their means by step, the pool's strata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sage_dpo.config import PoolSettings
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
    plain_ticks,
    thin_line,
    to_panel,
    varies,
)
from sage_dpo.report.run import ArmRun, Refresh

MAX_PANELS, MAX_BARS = 4, 12
_LINES = [Key("kept", KEPT, "━"), Key("dropped", DROPPED, "╍")]
_DIFFICULTY_COLOURS = {
    "never solved": UNUSABLE_COLOURS["never solved"],
    **dict(reversed(STRATUM_COLOURS.items())),
    "always solved": UNUSABLE_COLOURS["always solved"],
}


def margin_plot(arm: ArmRun) -> Plot | None:
    """Margin histograms of kept and dropped candidates, one panel a refresh."""
    shown = shown_refreshes(arm)
    tables = [refresh.scores for refresh in shown if refresh.scores is not None]
    if not tables:
        return None
    limits = middle_range(np.concatenate([table["margin"] for table in tables]))
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
    return Plot(f"Margins of kept and dropped candidates: {arm.name}", reading, panels, _LINES, subset_note(arm, shown))


_SELECTION_CURVES = (
    ("margin", "margin m", "scaled nats"),
    ("gradient_signal", "gradient signal g", "σ(−m)"),
    ("curvature", "curvature h", "σ(m) σ(−m)"),
    ("informativeness", "informativeness J", "squared norm"),
    ("utility", "utility S", ""),
)


def selection_curves_plot(arm: ArmRun) -> Plot | None:
    """Means of the kept and of the dropped candidates by optimizer step, for one arm."""
    panels = []
    for metric, label, unit in _SELECTION_CURVES:
        kept, dropped = arm.series(f"sage/{metric}_kept"), arm.series(f"sage/{metric}_dropped")
        if not varies(np.concatenate([kept[1], dropped[1]])):
            continue  # absent, or switched off: constant 1
        figure, axes = new_axes()
        for (steps, values), colour, dashes in ((kept, KEPT, "-"), (dropped, DROPPED, "--")):
            axes.plot(*thin_line(steps, values), color=colour, linestyle=dashes)
        axes.set(xlabel="optimizer step", ylabel=unit, title=f"Mean {label}")
        plain_ticks(axes)
        means = [f"{values.mean():.4g}" if values.size else "not recorded" for _, values in (kept, dropped)]
        alt = f"Mean {label} by step for arm {arm.name}; over the run kept {means[0]}, dropped {means[1]}."
        panels.append(to_panel(figure, salt=f"selection-{arm.name}-{metric}", alt=alt))
    if not panels:
        return None
    reading = (
        "Means over the candidate pairs of each step: solid line kept, dashed line dropped. The gap between the two "
        "is what the selector does; its trend is how the pool changes as the policy learns and the pool is "
        "refreshed."
    )
    return Plot(f"Kept and dropped candidates by step: {arm.name}", reading, panels, _LINES)


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


def shown_refreshes(arm: ArmRun) -> list[Refresh]:
    versions = evenly([refresh.version for refresh in arm.scored], MAX_PANELS)
    return [refresh for refresh in arm.scored if refresh.version in versions]


def subset_note(arm: ArmRun, shown: Sequence[Refresh]) -> list[str]:
    missing = len(arm.scored) - len(shown)
    return [f"{len(shown)} of {len(arm.scored)} refreshes shown, evenly spaced."] if missing else []


def middle_range(values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 99 % of the values, padded by 4 %; never empty."""
    low, high = np.quantile(values.astype(np.float64), (0.005, 0.995))
    padding = 0.04 * (high - low) or 0.5
    return float(low - padding), float(high + padding)
