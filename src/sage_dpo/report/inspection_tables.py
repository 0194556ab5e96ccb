"""The facts of `sage-dpo inspect` as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sage_dpo.report.summary import ABSENT
from sage_dpo.report.tables import Table, cells, render_plain

_NUMBERS = {"margin": "margin", "gradient_signal": "g", "curvature": "h", "informativeness": "J", "utility": "utility"}
_SHOWN_TEXT, _SHOWN_NEIGHBOURS, _SHOWN_APPEARANCES = 600, 5, 20


def format_summary(facts: Mapping[str, Any]) -> str:
    """Return what `inspection_facts.summarize` found."""
    lines = [f"{facts['name']}: {_counted(facts['rows'], 'row')}, {_counted(facts['pairs'], 'pair')}"]
    if "kept" not in facts:
        return f"{lines[0]}, no scores; `sage-dpo select --annotate` writes them\n"
    if "steps" in facts:
        lines[0] += f", steps {facts['steps'][0]} to {facts['steps'][1]}"
    excluded = {why: count for why, count in facts["excluded"].items() if count}
    lines.append(
        f"kept {facts['kept']}, below the cut {facts['below']}, shut by the gate {facts['shut']}"
        + "".join(f", {why} {count}" for why, count in excluded.items())
        + f"; {_counted(facts['never_kept'], 'pair')} never kept\n"
    )
    when = ", when last seen" if "steps" in facts else ""
    strata = [cells(name, str(row["rows"]), str(row["kept"])) for name, row in facts["strata"].items()]
    often = [cells(row["pair_id"], str(row["kept"]), str(row["candidate"])) for row in facts.get("most_kept", [])]
    tables = [
        Table("By stratum", ("stratum", "rows", "kept"), tuple(strata)),
        Table("Most often kept", ("pair", "kept", "candidate"), tuple(often)),
        _rows_table(f"Highest utility{when}", facts["top"]),
        _rows_table(f"Lowest utility{when}", facts["bottom"]),
    ]
    return "\n".join([*lines, *(render_plain(table) for table in tables if table.rows)])


def format_pair(facts: Mapping[str, Any]) -> str:
    """Return what `inspection_facts.explain` found in one source; the neighbours of the last appearance."""
    appearances = facts["appearances"]
    text = f"{facts['pair_id']} in {facts['name']}"
    if "step" in (appearances or [{}])[0]:
        text += f": candidate {_times(facts['candidate'])}, kept {_times(facts['kept'])}"
    lines = [text, *_texts(facts["texts"]), ""]
    if not appearances:
        return "\n".join([*lines, "no scores; `sage-dpo select --annotate` writes them", ""])
    shown = appearances[-_SHOWN_APPEARANCES:]
    more = len(appearances) - len(shown)
    caption = "What became of it" + (f" (the first {more} are left out here; --json has them)" if more else "")
    lines.append(render_plain(_appearance_table(caption, shown)))
    last = appearances[-1]
    near = _nearest(last["beside"], last["rank"])
    if near:
        where = f" at step {last['step']}" if "step" in last else ""
        rows = tuple(
            cells(str(row["rank"]), row["pair_id"], _number(row["margin"]), _number(row["utility"]), row["reason"])
            for row in near
        )
        caption = f"Beside it{where}, nearest by rank, of {len(last['beside'])} others"
        lines.append(render_plain(Table(caption, ("rank", "pair", "margin", "utility", "became"), rows)))
    return "\n".join(lines)


def _appearance_table(caption: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    has_steps = "step" in rows[0]
    header = (
        ("step", "pool", "stratum", *_NUMBERS.values(), "why") if has_steps else ("stratum", *_NUMBERS.values(), "why")
    )
    return Table(
        caption,
        header,
        tuple(
            cells(
                *((str(row["step"]), str(row["pool_version"])) if has_steps else ()),
                row["stratum"] or ABSENT,
                *(_number(row[name]) for name in _NUMBERS),
                row["why"],
            )
            for row in rows
        ),
    )


def _rows_table(caption: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        caption,
        ("pair", "stratum", *_NUMBERS.values(), "became"),
        tuple(
            cells(row["pair_id"], row["stratum"] or ABSENT, *(_number(row[name]) for name in _NUMBERS), row["reason"])
            for row in rows
        ),
    )


def _nearest(beside: Sequence[Mapping[str, Any]], rank: int | None) -> list[Mapping[str, Any]]:
    """Return the neighbours by rank on both sides; of a pair without a rank the last ones, which were nearest to it."""
    if rank is None:
        return list(beside[-_SHOWN_NEIGHBOURS:])
    before = [row for row in beside if row["rank"] < rank][-_SHOWN_NEIGHBOURS:]
    return [*before, *[row for row in beside if row["rank"] > rank][:_SHOWN_NEIGHBOURS]]


def _texts(texts: Mapping[str, Any] | None) -> list[str]:
    if texts is None:
        return ["(its texts are not in what was given)"]
    return [f"  {name}: {_short(value)}" for name, value in texts.items() if not str(name).endswith("_ids")]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text.replace("\n", "\n    ")
    return (
        text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]} ... ({len(text) - _SHOWN_TEXT:,} more characters)"
    )


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
