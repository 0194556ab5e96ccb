"""The report of a run: `report/index.html`, one file that needs nothing else, and `report/table.md`.

    write_report("runs/quickstart")  # -> runs/quickstart/report/index.html

The same folder gives the same bytes: no time stamps, seeded subsampling, fixed identifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sage_dpo.report.examples import choose_examples
from sage_dpo.report.figure import Plot, arm_keys, drawing, present, varies
from sage_dpo.report.outcome_plots import accuracy_plot, cost_plot, curves_plot
from sage_dpo.report.plane_plot import plane_plot
from sage_dpo.report.run import ArmRun, RunData, read_run
from sage_dpo.report.run_tables import exclusion_table, reasons_table, settings_table, stage_table
from sage_dpo.report.selection_plots import margin_plot, selection_curves_plot, strata_plot
from sage_dpo.report.tables import markdown_tables, summary_tables
from sage_dpo.report.template import render_template
from sage_dpo.storage import read_json, write_text

MAX_POINTS = 8000
"""Candidates drawn over all stability planes of the page: about 100 bytes each, so the page stays below 3 MB."""
MAX_SCORED_ARMS = 4
_SEED = 20260201


def write_report(run_dir: str | Path) -> Path:
    """Write `report/index.html` and `report/table.md` of a run folder; missing pieces are named on the page.

    Returns:
        Path of the page.

    Raises:
        DataError: `run_dir` is no run folder.
    """
    run = read_run(run_dir)
    page = run.folder.page
    if run.summary is not None:
        write_text(run.folder.table, markdown_tables(read_json(run.folder.summary)))
    write_text(page, render_page(run))
    return page


def render_page(run: RunData) -> str:
    """Return the page as HTML."""
    keys = arm_keys(run.arms, {name for name, arm in run.arms.items() if not arm.is_trained})
    subject = run.config.subject_arm if run.config else None
    scored = sorted((arm for arm in run.arms.values() if arm.scored), key=lambda arm: arm.name != subject)
    with drawing():
        outcomes = present([accuracy_plot(run.summary, keys), cost_plot(run.summary, keys)] if run.summary else [])
        curves = present([curves_plot(run.arms.values(), keys)])
        selections = [_selection_plots(arm, len(scored)) for arm in scored[:MAX_SCORED_ARMS]]
        pool = present([strata_plot(run.arms.values())])
    return render_template(
        "index.html",
        run=run,
        tables=summary_tables(run.summary) if run.summary else [],
        outcomes=outcomes,
        curves=curves,
        selections=list(zip(scored, selections, strict=False)),
        selection_notes=_selection_notes(run, scored),
        examples=[(arm, groups) for arm in scored[:MAX_SCORED_ARMS] if (groups := choose_examples(arm))],
        pool=pool,
        exclusions=[table for table in (exclusion_table(run), reasons_table(run)) if table.rows],
        settings=settings_table(run),
        stages=stage_table(run),
    )


def _selection_plots(arm: ArmRun, arms: int) -> list[Plot]:
    points = MAX_POINTS // min(arms, MAX_SCORED_ARMS)
    plane = plane_plot(arm, points=points, rng=np.random.default_rng(_SEED))
    return present([plane, margin_plot(arm), selection_curves_plot(arm)])


def _selection_notes(run: RunData, scored: Sequence[ArmRun]) -> list[str]:
    """Say which arms ended by themselves and which the selection plots leave out, and why."""
    results = run.summary.arms if run.summary else {}
    notes = [f"{name} ended by itself: {arm.stop_reason}." for name, arm in results.items() if arm.stop_reason]
    unscored = [arm.name for arm in run.arms.values() if arm.is_trained and not arm.scored]
    if unscored:
        notes.append(f"Without recorded scores (plain and random selection score nothing): {', '.join(unscored)}.")
    if len(scored) > MAX_SCORED_ARMS:
        notes.append(f"Left out to keep the page small: {', '.join(arm.name for arm in scored[MAX_SCORED_ARMS:])}.")
    flat = [arm.name for arm in scored if not any(varies(r.scores["informativeness"]) for r in arm.scored if r.scores)]
    if flat:
        notes.append(f"No stability plane, because the selector does not use informativeness: {', '.join(flat)}.")
    return notes
