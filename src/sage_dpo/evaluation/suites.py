"""The eight public benchmarks, one record each, and how they are loaded.

A file is `<data>/<name>.jsonl`, one problem a line: `id`, `problem`, `answer`, optionally `solution`; other fields go
to the metadata. Sizes are part of the record: a suite that loads another number of problems is an error, so that a
half-copied file cannot pass for a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sage_dpo.errors import ConfigError, DataError, SuiteSizeError
from sage_dpo.records import Problem
from sage_dpo.storage import numbered_rows

GREEDY = {"samples": 1, "temperature": 0.0, "top_p": 1.0}
SAMPLED = {"samples": 8, "temperature": 0.6, "top_p": 0.95}
_PROBLEM_FIELDS = ("id", "problem", "answer")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Interpretation: how many samples the paper took is not public; its values for AMC23 and AIME24 are multiples of
    1/40 and 1/30, which fits one greedy answer a problem. On 30 or 40 problems that has an interval of +-15 points, so
    these two are avg@8 here, at the temperature and top-p usual for them; the other suites are greedy. Pass
    `samples={"amc23": 1, "aime24": 1}` to `evaluate_policy` for greedy ones.

    Attributes:
        name: also the file name, `<name>.jsonl`.
        size: number of problems.
        answer_style: `integer`, `number` or `latex`: what the gold answers look like.
        samples: k of avg@k.
        temperature, top_p: sampling; temperature 0 is greedy.
        source: where the problems were published.
        hub_id, hub_config, hub_revision: data set, configuration and commit on the hub; `None` where no copy with the
            same problems is known to us, so that only the local file is supported.
        hub_fields: columns of the hub copy that serve as `problem` and `answer`. An answer with GSM8K's `####` is cut
            behind it, and what stands before it is the solution.
    """

    name: str
    size: int
    answer_style: str
    source: str
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    hub_id: str | None = None
    hub_config: str | None = None
    hub_revision: str | None = None
    hub_fields: tuple[str, str] = ("problem", "answer")


_QWEN = "QwenLM/Qwen2.5-Math@a45202bd16f1ec06f433442dc1152d0074773465:evaluation/data"
_GSM8K = "openai/grade-school-math@3101c7d5072418e28b9008a6636bde82a006892c:grade_school_math/data/test.jsonl"
_MATH500 = "openai/prm800k@7ecc794703b2877f63226f2477a49b34f9b25163:prm800k/math_splits/test.jsonl"

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        suite.name: suite
        for suite in (
            Benchmark(
                "gsm8k",
                1319,
                "number",
                f"github.com/{_GSM8K}",
                hub_id="openai/gsm8k",
                hub_config="main",
                hub_revision="cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
                hub_fields=("question", "answer"),
            ),
            Benchmark(
                "math500",
                500,
                "latex",
                f"github.com/{_MATH500}",
                hub_id="HuggingFaceH4/MATH-500",
                hub_revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            ),
            Benchmark("minerva", 272, "latex", f"github.com/{_QWEN}/minerva_math/test.jsonl"),
            Benchmark("gaokao2023en", 385, "latex", f"github.com/{_QWEN}/gaokao2023en/test.jsonl"),
            Benchmark("olympiadbench", 675, "latex", f"github.com/{_QWEN}/olympiadbench/test.jsonl"),
            Benchmark("college_math", 2818, "latex", f"github.com/{_QWEN}/college_math/test.jsonl"),
            Benchmark("amc23", 40, "integer", f"github.com/{_QWEN}/amc23/test.jsonl", **SAMPLED),  # type: ignore[arg-type]
            Benchmark("aime24", 30, "integer", f"github.com/{_QWEN}/aime24/test.jsonl", **SAMPLED),  # type: ignore[arg-type]
        )
    }
)


def load_benchmark(name: str, data: Path | str | None, *, limit: int | None = None) -> list[Problem]:
    """Load one benchmark.

    Args:
        name: key of `BENCHMARKS`.
        data: folder with `<name>.jsonl`; `None` loads the hub copy, where there is one.
        limit: the first so many problems only. The size is checked before, and results on them are partial.

    Raises:
        ConfigError: unknown name, or neither a folder nor a hub copy.
        DataError: no such file, a line that is not a problem, or a duplicate id; with line number.
        SuiteSizeError: another number of problems than the record states.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}, expected one of {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    path = None if data is None else Path(data) / f"{name}.jsonl"
    rows = _hub_rows(benchmark) if path is None else _file_rows(path)
    problems: dict[str, Problem] = {}
    where = path or benchmark.hub_id
    for number, row in rows:
        problem = _problem(row, f"{where}, line {number}")
        if problem.id in problems:
            raise DataError(f"{where}, line {number}: id {problem.id!r} occurs twice; remove one of the rows")
        problems[problem.id] = problem
    if len(problems) != benchmark.size:
        raise SuiteSizeError(
            f"{where} holds {len(problems):,} problems, expected the {benchmark.size:,} of {name}; fetch it again from "
            f"{benchmark.source} (for a part of a suite, load all of it and pass limit)"
        )
    return list(problems.values())[:limit]


def _file_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the folder that holds it (evaluation.suites.data, or --data)")
    return numbered_rows(path)


def _hub_rows(benchmark: Benchmark) -> Iterator[tuple[int, dict[str, Any]]]:
    if benchmark.hub_id is None or benchmark.hub_revision is None:
        raise ConfigError(
            f"no hub copy of {benchmark.name} is pinned, so it is read from a local file; give a folder with "
            f"{benchmark.name}.jsonl (evaluation.suites.data, or --data). The problems are published at "
            f"{benchmark.source}"
        )
    from datasets import load_dataset

    try:
        rows = load_dataset(benchmark.hub_id, benchmark.hub_config, split="test", revision=benchmark.hub_revision)
    except (OSError, ValueError) as error:  # what a hub that is out of reach, or a cache without it, comes to
        raise DataError(
            f"{benchmark.name} cannot be loaded from the hub: {str(error).splitlines()[0]}; give a folder with "
            f"{benchmark.name}.jsonl (evaluation.suites.data, or --data)"
        ) from None
    problem, answer = benchmark.hub_fields
    for number, row in enumerate(rows, start=1):
        solution, _, final = row[answer].rpartition("####")
        fields = {"problem": row[problem], "answer": final.strip(), "solution": solution.strip() or row.get("solution")}
        kept = {key: value for key, value in row.items() if key not in (problem, answer, "solution")}
        yield number, {"id": f"{benchmark.name}/{number - 1}", **kept, **fields}


def _problem(row: dict[str, Any], where: str) -> Problem:
    missing = [field for field in _PROBLEM_FIELDS if field not in row]
    if missing:
        raise DataError(f"{where}: lacks {missing}, has {sorted(row)}; expected {', '.join(_PROBLEM_FIELDS)}")
    metadata = {key: value for key, value in row.items() if key not in (*_PROBLEM_FIELDS, "solution")}
    try:
        return Problem(row["id"], row["problem"], row["answer"], row.get("solution"), metadata)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
