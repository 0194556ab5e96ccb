"""Result tables: built once from a summary, rendered as Markdown, for a terminal, or (in page.py) as HTML.

Suites and costs are rows, arms are columns: the numbers to compare stand side by side, whatever the number of suites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_dpo.report.summary import (
    ABSENT,
    Summary,
    count,
    duration,
    percent,
    percent_interval,
    points,
    points_interval,
)

BEST_NOTE = "Bold: highest value of the row; whether it differs from the others is in the comparison table."


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a smaller second line, and whether it is the best of its row."""

    text: str
    detail: str = ""
    is_best: bool = False


def cells(*texts: str) -> tuple[Cell, ...]:
    """Return a row of plain cells."""
    return tuple(Cell(text) for text in texts)


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def result_table(summary: Summary, *, with_intervals: bool = True) -> Table:
    """Accuracy in percent of every arm: the average, then each suite, with 95 % bootstrap intervals."""
    arms = list(summary.arms.values())
    rows = [
        _accuracy_row("average", [a.average for a in arms], [a.average_interval for a in arms], with_intervals),
        _accuracy_row("average at the best probe", [a.best_average for a in arms], [None] * len(arms), with_intervals),
        *(
            _accuracy_row(
                suite,
                [arm.suites.get(suite) for arm in arms],
                [arm.suite_intervals.get(suite) for arm in arms],
                with_intervals,
            )
            for suite in summary.suites
        ),
    ]
    rows = [row for row in rows if any(cell.text != ABSENT for cell in row[1:])]
    intervals = " with 95 % bootstrap intervals" if with_intervals else ""
    return Table(f"Accuracy in percent{intervals}", ("suite", *summary.arms), tuple(rows), BEST_NOTE)


def _accuracy_row(
    name: str, values: Sequence[float | None], intervals: Sequence[Any], detailed: bool
) -> tuple[Cell, ...]:
    texts = [percent(value) for value in values]
    known = [value for value in values if value is not None]
    best = percent(max(known)) if len(known) > 1 else None  # equal at the printed precision is equally best
    details = [percent_interval(interval) if detailed and interval else "" for interval in intervals]
    return (Cell(name), *(Cell(text, detail, text == best) for text, detail in zip(texts, details, strict=True)))


_MEASURING = ("probe", "evaluation")

_COST_ROWS: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("tokens trained", "train_tokens", count),
    ("tokens scored", "scored_tokens", count),
    ("tokens through the reference", "reference_tokens", count),
    ("tokens generated", "generated_tokens", count),
    ("pairs kept", "kept_pairs", count),
    ("pairs considered", "candidate_pairs", count),
    ("optimizer steps", "steps", count),
    ("pool refreshes", "refreshes", count),
    ("learning rate", "learning_rate", lambda value: ABSENT if value is None else f"{value:g}"),
    ("wall-clock", "wall_s", duration),
)


def cost_table(summary: Summary) -> Table:
    """What each arm cost: tokens, pairs, steps, wall-clock; then the wall-clock by part. Rows nobody recorded go."""
    arms = summary.arms.values()
    rows = [_cost_row(label, [a.costs.get(key) for a in arms], form) for label, key, form in _COST_ROWS]
    parts = dict.fromkeys(part for arm in arms for part in arm.wall_breakdown)
    for part in sorted(parts, key=lambda part: part in _MEASURING):
        label = f"… {part.replace('-', ' ')}" + (" (not in wall-clock)" if part in _MEASURING else "")
        rows.append(_cost_row(label, [arm.wall_breakdown.get(part) for arm in arms], duration))
    rows = [row for row in rows if any(cell.text != ABSENT for cell in row[1:])]
    note = "Tokens are real ones, prompt and completion, without padding. Trained: forward and backward, for the pairs "
    note += "kept; scored: forward only, for all candidates. Wall-clock is what making the policy took; measuring it "
    note += "is listed but not counted."
    return Table("Cost of each arm", ("", *summary.arms), tuple(rows), note)


def _cost_row(label: str, values: Sequence[float | None], form: Callable[[float | None], str]) -> tuple[Cell, ...]:
    return cells(label, *(form(value) for value in values))


def comparison_table(summary: Summary) -> Table:
    """Differences between arms in percentage points, each with what its interval allows one to say."""
    rows = [
        cells(comparison.label, points(comparison.mean), points_interval(comparison.interval), comparison.verdict)
        for comparison in summary.comparisons
    ]
    note = "Differences are paired over the same problems. One run has one training seed: the interval covers which "
    note += "problems were asked, not how training would vary under another seed."
    return Table(
        "Differences between arms, average accuracy",
        ("difference", "points", "95 % interval", "reading"),
        tuple(rows),
        note,
    )


def summary_tables(summary: Summary) -> list[Table]:
    """Every table that has rows: accuracy, differences, cost."""
    tables = [result_table(summary), comparison_table(summary), cost_table(summary)]
    return [table for table in tables if table.rows and len(table.header) > 1]


def markdown_tables(summary: Mapping[str, Any]) -> str:
    """Return `summary.json`'s content as Markdown tables (accuracy, differences, cost).

    Raises:
        DataError: the mapping is no summary.
    """
    parsed = Summary.from_dict(summary)
    title = f"# {_escape(parsed.name)}" + (f" (seed {parsed.seed})" if parsed.seed is not None else "")
    return "\n".join([title, "", *(render_markdown(table) for table in summary_tables(parsed))])


def render_markdown(table: Table) -> str:
    """Return one Markdown table with its caption above and its note below."""
    lines = [f"**{table.caption}**", "", _markdown_row(table.header)]
    lines.append(_markdown_row(["---", *["---:"] * (len(table.header) - 1)], escape=False))
    for row in table.rows:
        lines.append(_markdown_row([_markdown_cell(cell) for cell in row], escape=False))
    return "\n".join([*lines, "", *([table.note, ""] if table.note else [])])


def _markdown_cell(cell: Cell) -> str:
    text = f"**{_escape(cell.text)}**" if cell.is_best else _escape(cell.text)
    return f"{text} ({cell.detail})" if cell.detail else text


def _markdown_row(cells: Sequence[str], *, escape: bool = True) -> str:
    return "| " + " | ".join(_escape(cell) if escape else cell for cell in cells) + " |"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def format_table(summary: Mapping[str, Any]) -> str:
    """Return `summary.json`'s content as aligned plain text for a terminal.

    A star marks the best of a row. Intervals are printed for the average and the differences only, to stay narrow.

    Raises:
        DataError: the mapping is no summary.
    """
    parsed = Summary.from_dict(summary)
    accuracy = result_table(parsed, with_intervals=False)
    if not accuracy.rows:
        accuracy = Table(f"{parsed.name}: no arm has been evaluated", ("", *parsed.arms), ())
    bounds = [(percent(i[0]), percent(i[1])) if (i := arm.average_interval) else None for arm in parsed.arms.values()]
    if any(bounds) and accuracy.rows:
        interval = cells("  95 % interval", *(f"{b[0]}-{b[1]}" if b else ABSENT for b in bounds))
        accuracy = Table(accuracy.caption, accuracy.header, (accuracy.rows[0], interval, *accuracy.rows[1:]))
    tables = [accuracy, cost_table(parsed), comparison_table(parsed)]
    return "\n".join(render_plain(table) for table in tables if table.rows or table is accuracy)


def render_plain(table: Table) -> str:
    """Return a table as aligned text for a terminal."""
    if not table.rows:
        return f"{table.caption}\n"
    rows = [list(table.header), *([_plain_cell(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    is_text = [c == 0 or not any(_is_numeric(row[c]) for row in rows[1:]) for c in range(len(table.header))]
    lines = [
        "  ".join(cell.ljust(w) if text else cell.rjust(w) for cell, w, text in zip(row, widths, is_text, strict=True))
        for row in rows
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join([table.caption, *(line.rstrip() for line in lines), ""])


def _plain_cell(cell: Cell) -> str:
    return f"{cell.text}{'*' if cell.is_best else ' '}" if cell.text[:1].isdigit() else cell.text


def _is_numeric(text: str) -> bool:
    return text.strip()[:1].isdigit() or text.strip()[:1] in ("+", "−", ABSENT)
