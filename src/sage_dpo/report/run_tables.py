"""Tables of how a run was made: settings that differ, stages and their wall-clock, what was excluded and why."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from pydantic import BaseModel

from sage_dpo.report.figure import evenly
from sage_dpo.report.run import Refresh, RunData
from sage_dpo.report.summary import ABSENT, count, duration
from sage_dpo.report.tables import Table, cells

MAX_REFRESHES = 12

_COUNTS = (
    "problems", "never solved", "always solved", "completions", "truncated", "correct", "wrong", "unparseable",
    "timeout", "error", "pairs", "unscored candidates",
)  # fmt: skip


def exclusion_table(run: RunData) -> Table:
    """What became of problems and completions at each refresh of each arm; long runs are thinned evenly."""
    refreshes: list[tuple[str, Refresh]] = [("first pool", run.first_pool)] if run.first_pool else []
    for arm in run.arms.values():
        shown = evenly([refresh.version for refresh in arm.refreshes], MAX_REFRESHES)
        refreshes += [(arm.name, refresh) for refresh in arm.refreshes if refresh.version in shown and refresh.counts]
    counted = [name for name in _COUNTS if any(name in refresh.counts for _, refresh in refreshes)]
    columns = [name for name in counted if any(refresh.counts.get(name) for _, refresh in refreshes)]
    rows = tuple(
        cells(arm, str(refresh.version), *(count(refresh.counts.get(name)) for name in columns))
        for arm, refresh in refreshes
    )
    note = (
        "Problems never or always solved yield no pair. A completion without a readable answer (unparseable) counts "
        "as wrong; timeouts and errors are unknown and enter no pair. Truncated: cut at the token limit."
    )
    zero = [name for name in counted if name not in columns]
    note += f" Zero throughout: {', '.join(zero)}." if zero else ""
    if any(len(arm.refreshes) > MAX_REFRESHES for arm in run.arms.values()):
        note += f" {MAX_REFRESHES} refreshes of each arm are listed, evenly spaced."
    return Table("Problems, completions and pairs, by arm and refresh", ("arm", "refresh", *columns), rows, note)


def reasons_table(run: RunData) -> Table:
    """What was left out when pairs were built or trained on, by reason: in the first pool, then by each arm."""
    columns = {"first pool": dict(run.first_pool.exclusions) if run.first_pool else {}}
    for arm in run.arms.values():
        counts = Counter[str]()
        for refresh in arm.refreshes:
            counts.update(refresh.exclusions)
        if run.summary is not None and arm.name in run.summary.arms:
            counts.update(run.summary.arms[arm.name].exclusions)
        columns[arm.name] = dict(counts)
    columns = {name: counts for name, counts in columns.items() if counts}
    reasons = dict.fromkeys(reason for counts in columns.values() for reason in counts)
    rows = tuple(
        cells(reason.replace("_", " "), *(count(counts.get(reason, 0)) for counts in columns.values()))
        for reason in reasons
    )
    return Table("Counted while pairs were built and trained on, by reason", ("reason", *columns), rows)


def settings_table(run: RunData) -> Table:
    """Settings of selection, pool and training that differ between arms, and the selector of each."""
    configs = {name: arm.config for name, arm in run.arms.items() if arm.is_trained}
    flat = {name: _flatten(config) for name, config in configs.items() if config is not None}
    names = dict.fromkeys(key for values in flat.values() for key in values)
    always = (
        "selection.selector",
        "selection.keep_ratio",
        "training.learning_rate",
        "training.steps",
        "pool.refresh_steps",
    )
    rows = tuple(
        cells(key, *(values.get(key, ABSENT) for values in flat.values()))
        for key in names
        if key in always or len({values.get(key) for values in flat.values()}) > 1
    )
    note = "Every other setting is the same for all trained arms; the resolved configuration is below."
    return Table("Settings that differ between trained arms, and the main ones", ("setting", *flat), rows, note)


def _flatten(config: Any) -> dict[str, str]:
    sections: dict[str, BaseModel] = {name: getattr(config, name) for name in ("selection", "pool", "training")}
    return {
        f"{section}.{key}": _plain(value)
        for section, model in sections.items()
        for key, value in model.model_dump().items()
    }


def stage_table(run: RunData) -> Table:
    """Wall-clock of each stage and what it recorded about itself."""
    stages = run.manifest.get("stages") or {}
    rows = tuple(
        cells(
            name,
            duration(stage.get("seconds")),
            "; ".join(f"{k}: {_plain(v)}" for k, v in (stage.get("info") or {}).items()),
        )
        for name, stage in stages.items()
    )
    return Table("Stages, in the order they were completed", ("stage", "wall-clock", "recorded"), rows)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items()) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
