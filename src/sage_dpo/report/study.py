"""The results of a study, told: `results.json` as tables (Markdown, terminal) and as a page with plots.

Everything here is drawn from `results.json` alone, so a published file can be told again without its run folders.
"""

from __future__ import annotations

import re
from pathlib import Path

from sage_dpo.report.figure import Panel
from sage_dpo.report.study_plots import study_plots
from sage_dpo.report.study_tables import StudyResult, study_tables
from sage_dpo.report.tables import render_markdown, render_plain
from sage_dpo.report.template import render_template
from sage_dpo.run_folder import StudyFolder
from sage_dpo.storage import read_json, write_text

_SEEDS_NOTE = (
    "Means over seeds, with the 95 % Student interval over seeds; a seed changes the training problems, the rollouts "
    "and the order of pairs."
)


def write_study_report(root: Path) -> Path:
    """Write `table.md`, `index.html` and the plots as SVG of a folder that holds `results.json`; return the page."""
    folder = StudyFolder(root)
    result = read_json(folder.results)
    write_text(folder.table, study_markdown(result))
    plots = study_plots(result)
    for plot in plots:
        for number, panel in enumerate(plot.panels):
            name = re.sub(r"\W+", "-", plot.title.split(":")[0].lower()).strip("-")  # an axis may hold any sign
            write_text(folder.plot(f"{name}-{number}"), _standalone(panel))
    write_text(folder.page, render_template("study.html", result=result, tables=study_tables(result), plots=plots))
    return folder.page


def format_study(result: StudyResult) -> str:
    """Return the tables as aligned text for a terminal."""
    return "\n".join(render_plain(table) for table in study_tables(result))


def study_markdown(result: StudyResult) -> str:
    """Return the tables as Markdown, headed by the command that makes them."""
    seeds = ", ".join(str(seed) for seed in result["seeds"])
    head = [f"# {result['title']}", "", f"`{result['command']}`, seeds {seeds}. {_SEEDS_NOTE}", ""]
    return "\n".join([*head, *(render_markdown(table) for table in study_tables(result))])


def _standalone(panel: Panel) -> str:
    """An inline panel as an SVG file of its own, light colours, white ground."""
    name_space = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    text = panel.svg.replace("<svg ", name_space + 'style="background:#fff;font-family:sans-serif" ', 1)
    return text.replace("href=", "xlink:href=")
