"""A run folder, read for reporting: only the columns a report needs, and a note for everything that is not there.

A report is often wanted of a run that was interrupted, so nothing here fails because a file is absent or damaged:
the fact goes to `RunData.missing` and the page prints it. Token ids are never read (they are most of the bytes).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sage_dpo.config import RunConfig, load_config
from sage_dpo.errors import ConfigError, DataError
from sage_dpo.records import FinishReason, VerdictKind
from sage_dpo.report.summary import Summary, number
from sage_dpo.rules import success_rate
from sage_dpo.run_folder import ArmFolder, PoolFolder, RunFolder
from sage_dpo.storage import parse_row, read_json

Columns = dict[str, NDArray[Any]]
_SCORE_COLUMNS = (
    "step", "pair_id", "problem_id", "stratum", "margin", "gradient_signal", "curvature", "informativeness",
    "utility", "is_kept",
)  # fmt: skip


@dataclass(frozen=True)
class Refresh:
    """One refresh of one arm's pool.

    Attributes:
        version: refresh number, 0 is the pool of the untrained policy, which all arms share.
        pairs_path: its pairs file, whether or not it is there.
        scores: columns of `records.PairScore`, or `None` if the arm scored nothing.
        success_rates: correct / known verdicts of each problem that has a known one, or `None` without verdicts.
        pair_success_rates: success rate of each pair's problem, NaN where unknown; `None` without a pairs file.
        counts: what became of problems and completions.
        exclusions: what was left out when pairs were built, by reason.
    """

    version: int
    pairs_path: Path
    scores: Columns | None
    success_rates: NDArray[np.float64] | None
    pair_success_rates: NDArray[np.float64] | None
    counts: dict[str, int]
    exclusions: dict[str, int]


@dataclass(frozen=True)
class ArmRun:
    """One arm's files: settings, logged metrics by step, refreshes in order."""

    name: str
    config: RunConfig | None
    is_trained: bool
    metrics: list[dict[str, Any]]
    refreshes: list[Refresh]

    @property
    def selector(self) -> str:
        return self.config.selection.selector if self.config else "unknown"

    @property
    def scored(self) -> list[Refresh]:
        return [refresh for refresh in self.refreshes if refresh.scores is not None]

    def series(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (steps, values) of a metric where both were logged and finite."""
        rows = [(number(row.get("step")), number(row.get(key))) for row in self.metrics]
        table = np.array([row for row in rows if None not in row], dtype=np.float64).reshape(-1, 2)
        return table[:, 0], table[:, 1]


@dataclass(frozen=True)
class RunData:
    """Everything a report is made of; `first_pool` is the one all arms start from, `missing` what was not found."""

    folder: RunFolder
    name: str
    seed: int | None
    config: RunConfig | None
    config_text: str
    manifest: dict[str, Any]
    summary: Summary | None
    first_pool: Refresh | None
    arms: dict[str, ArmRun]
    missing: list[str] = field(default_factory=list)


def read_run(root: str | Path) -> RunData:
    """Read a run folder.

    Raises:
        DataError: `root` is not a folder, or holds neither a manifest, nor a summary, nor any arm.
    """
    folder = RunFolder(Path(root))
    if not folder.has_parts:
        raise DataError(f"{root} is not a run folder: no manifest.json, summary.json or arms/; give runs/<name>")
    if not folder.first_pool.root.is_dir() and (folder.root / "initial").is_dir():
        raise DataError(f"{root} was made by an earlier version of sage-dpo, which named its files otherwise")
    missing: list[str] = []
    config, config_text = _read_config(folder.config, missing)
    manifest = _read_optional(folder.manifest, missing, "versions and stage times are unknown")
    values = _read_optional(folder.summary, missing, "no accuracies yet: the run was interrupted or is going on")
    summary = Summary.from_dict(values) if values else None
    names = dict.fromkeys([*(summary.arms if summary else ()), *(config.arms if config else ()), *folder.arms()])
    name = summary.name if summary else config.name if config else folder.root.name
    seed = summary.seed if summary and summary.seed is not None else config.seed if config else None
    first_pool = _read_refresh(folder.first_pool, 0, missing) if folder.first_pool.root.is_dir() else None
    arms = {arm: _read_arm(folder.arm(arm), config, summary, first_pool, missing) for arm in names}
    if summary is not None and arms and all(arm.average is None for arm in summary.arms.values()):
        missing.append("summary.json holds no accuracies: no arm was evaluated.")
    return RunData(folder, name, seed, config, config_text, manifest, summary, first_pool, arms, missing)


def _read_config(path: Path, missing: list[str]) -> tuple[RunConfig | None, str]:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    try:
        return load_config(path), text
    except ConfigError as error:
        missing.append(
            f"The configuration cannot be read, package defaults stand in for stratum bounds and utility: {error}"
        )
        return None, text


def _read_optional(path: Path, missing: list[str], consequence: str) -> dict[str, Any]:
    try:
        value = read_json(path)
    except DataError as error:
        reason = "is not there" if not path.exists() else f"is damaged ({error})"
        missing.append(f"{path.name} {reason}; {consequence}.")
        return {}
    return value if isinstance(value, dict) else {}


def _read_arm(
    folder: ArmFolder, config: RunConfig | None, summary: Summary | None, first_pool: Refresh | None, missing: list[str]
) -> ArmRun:
    name = folder.name
    known = config is not None and name in config.arms
    arm_config = config.for_arm(name) if config is not None and known else config
    result = summary.arms.get(name) if summary else None
    is_trained = config.arms[name].train if config and known else result is None or result.costs.get("steps") != 0
    if summary is not None and name not in summary.arms:
        missing.append(f"Arm {name} has no result in summary.json.")
    refreshes = [_read_refresh(pool, version, missing) for version, pool in folder.refreshes().items()]
    if first_pool is not None and is_trained:
        refreshes = _with_first_pool(refreshes, first_pool)
    arm = ArmRun(name, arm_config, is_trained, _read_metrics(folder.metrics, name, missing), refreshes)
    if is_trained and not arm.metrics:
        missing.append(f"Arm {name} has no metrics.jsonl: no learning curves for it.")
    if is_trained and arm.selector not in ("all", "random") and not arm.scored:
        missing.append(f"Arm {name} has no scores: its selection cannot be shown.")
    return arm


def _with_first_pool(refreshes: Sequence[Refresh], first_pool: Refresh) -> list[Refresh]:
    """Put the shared first pool at version 0 with the arm's own scores; its counts are told once, not per arm."""
    own = next((refresh for refresh in refreshes if refresh.version == 0), None)
    if own is not None and own.pair_success_rates is not None:
        return list(refreshes)
    first = replace(first_pool, scores=own.scores if own else None, counts={}, exclusions={})
    return [first, *(refresh for refresh in refreshes if refresh.version != 0)]


def _read_metrics(path: Path, arm: str, missing: list[str]) -> list[dict[str, Any]]:
    """Read metric lines; a line cut off by an interruption is counted, not fatal."""
    if not path.is_file():
        return []
    rows, bad = [], 0
    for line in path.read_bytes().split(b"\n"):
        try:
            rows.append(parse_row(line, path.name))
        except DataError:
            bad += bool(line.strip())
    if bad:
        missing.append(f"Arm {arm}: {bad} of {bad + len(rows)} lines of metrics.jsonl are unreadable and left out.")
    return rows


def _read_refresh(folder: PoolFolder, version: int, missing: list[str]) -> Refresh:
    counts: Counter[str] = Counter()
    completions = read_columns(folder.completions, ("finish_reason",), missing)
    if completions is not None:
        counts["completions"] = len(completions["finish_reason"])
        counts["truncated"] = int((completions["finish_reason"] == FinishReason.LENGTH).sum())
    verdicts = read_columns(folder.verdicts, ("problem_id", "kind"), missing)
    rates = None
    if verdicts is not None:
        counts.update({str(kind): int((verdicts["kind"] == kind).sum()) for kind in VerdictKind})
        rates = _success_rates(verdicts)
        counts["problems"] = len(set(verdicts["problem_id"].tolist()))
        counts["never solved"] = int((rates == 0).sum())
        counts["always solved"] = int((rates == 1).sum())
    pairs = read_columns(folder.pairs, ("success_rate",), missing)
    pair_rates = None
    if pairs is not None:
        pair_rates = pairs["success_rate"].astype(np.float64)
        counts["pairs"] = pair_rates.size
    scores = read_columns(folder.scores, _SCORE_COLUMNS, missing)
    if scores is not None:
        scores, dropped = _finite_scores(scores)
        if dropped:
            counts["unscored candidates"] = dropped
    info = _read_optional(folder.info, missing, "exclusions are unknown") if folder.info.exists() else {}
    exclusions = _whole_numbers(info.get("exclusions"))
    return Refresh(version, folder.pairs, scores, rates, pair_rates, dict(counts), exclusions)


def _whole_numbers(values: Any) -> dict[str, int]:
    """Return the entries of a mapping that are counts; anything else that was recorded is not a count of exclusions."""
    items = values.items() if isinstance(values, Mapping) else ()
    return {str(name): value for name, value in items if isinstance(value, int) and not isinstance(value, bool)}


def _success_rates(verdicts: Columns) -> NDArray[np.float64]:
    """Return the success rate of each problem with a known verdict, by problem id."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for problem_id, kind in zip(verdicts["problem_id"], verdicts["kind"], strict=True):
        kinds[str(problem_id)].append(kind)
    rates = [success_rate(kinds[problem_id]) for problem_id in sorted(kinds)]
    return np.array([rate for rate in rates if rate is not None], dtype=np.float64)


def _finite_scores(scores: Columns) -> tuple[Columns | None, int]:
    """Drop rows whose margin or utility is not finite (an arm that only draws records no scores); count them."""
    finite = np.isfinite(scores["margin"].astype(np.float64)) & np.isfinite(scores["utility"].astype(np.float64))
    dropped = int((~finite).sum())
    if not finite.any():  # a selector that only draws: there is nothing to leave out
        return None, 0
    return {name: column[finite] for name, column in scores.items()}, dropped


def read_columns(path: Path, names: Sequence[str], missing: list[str]) -> Columns | None:
    """Read some columns of a Parquet file as NumPy arrays; absent file -> `None`, damaged file -> `None` and a note."""
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path, columns=list(names))
    except (pa.ArrowException, OSError) as error:
        missing.append(f"{'/'.join(path.parts[-3:])} cannot be read ({str(error).splitlines()[0]}).")
        return None
    absent = sorted(set(names) - set(table.column_names))
    if absent:
        missing.append(f"{'/'.join(path.parts[-3:])} lacks the columns {', '.join(absent)} and is left out.")
        return None
    return {name: table.column(name).to_numpy() for name in names}
