"""The eight public benchmarks, one record each, and how they are loaded.

A file is `<data>/<name>.jsonl`, one problem a line: `id`, `problem`, `answer`, optionally `solution`; other fields go
to the metadata. Or it is the file that the benchmark's repository publishes, under its own name and with its own fields
(`published.py`). Sizes are part of the record: a suite that loads another number of problems is an error, so that a
half-copied file cannot pass for a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sage_dpo.data.rows import first_line
from sage_dpo.errors import ConfigError, DataError, SuiteSizeError
from sage_dpo.evaluation.published import Published
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
        published: how the published file, and the hub copy, look.
    """

    name: str
    size: int
    answer_style: str
    source: str
    published: Published
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    hub_id: str | None = None
    hub_config: str | None = None
    hub_revision: str | None = None


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
                Published(
                    ("gsm8k/test.jsonl", "grade_school_math/data/test.jsonl"),
                    problem="question",
                    answer="after_hashes(answer)",
                    solution="answer",
                    id="test/{number}",
                ),
                hub_id="openai/gsm8k",
                hub_config="main",
                hub_revision="cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
            ),
            Benchmark(
                "math500",
                500,
                "latex",
                f"github.com/{_MATH500}",
                Published(
                    ("math500/test.jsonl", "prm800k/math_splits/test.jsonl", "math_splits/test.jsonl"),
                    answer="last_box(solution)",
                    solution="solution",
                    id="{unique_id}",
                ),
                hub_id="HuggingFaceH4/MATH-500",
                hub_revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            ),
            Benchmark(
                "minerva",
                272,
                "latex",
                f"github.com/{_QWEN}/minerva_math/test.jsonl",
                Published(("minerva_math/test.jsonl",), answer="last_box(solution)", solution="solution"),
            ),
            Benchmark(
                "gaokao2023en",
                385,
                "latex",
                f"github.com/{_QWEN}/gaokao2023en/test.jsonl",
                Published(("gaokao2023en/test.jsonl",), problem="question"),
            ),
            Benchmark(
                "olympiadbench",
                675,
                "latex",
                f"github.com/{_QWEN}/olympiadbench/test.jsonl",
                Published(
                    ("olympiadbench/test.jsonl",),
                    problem="question",
                    answer="final_answer.0",
                    solution="solution.0",
                    id="{id}",
                ),
            ),
            Benchmark(
                "college_math",
                2818,
                "latex",
                f"github.com/{_QWEN}/college_math/test.jsonl",
                Published(("college_math/test.jsonl",), problem="question"),
            ),
            Benchmark(
                "amc23",
                40,
                "integer",
                f"github.com/{_QWEN}/amc23/test.jsonl",
                Published(("amc23/test.jsonl",), id="{id}"),
                **SAMPLED,  # type: ignore[arg-type]
            ),
            Benchmark(
                "aime24",
                30,
                "integer",
                f"github.com/{_QWEN}/aime24/test.jsonl",
                Published(("aime24/test.jsonl",), id="{id}"),
                **SAMPLED,  # type: ignore[arg-type]
            ),
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
    path = None if data is None else _find_file(benchmark, Path(data))
    rows = _hub_rows(benchmark) if path is None else numbered_rows(path)
    problems: dict[str, Problem] = {}
    where = path or benchmark.hub_id
    for count, (number, row) in enumerate(rows):
        problem = _problem(benchmark, count, row, f"{where}, line {number}")
        if problem.id in problems:
            raise DataError(f"{where}, line {number}: id {problem.id!r} occurs twice; keep one of the rows")
        problems[problem.id] = problem
    if len(problems) != benchmark.size:
        raise SuiteSizeError(
            f"{where} holds {len(problems):,} problems, expected the {benchmark.size:,} of {name}; fetch it again from "
            f"{benchmark.source} (for a part of a suite, load all of it and pass limit)"
        )
    return list(problems.values())[:limit]


def _find_file(benchmark: Benchmark, folder: Path) -> Path:
    names = (f"{benchmark.name}.jsonl", *benchmark.published.files)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder / names[0]} does not exist; give the folder that holds it, or the published "
        f"{' or '.join(names[1:])} (evaluation.suites.data, or --data)"
    )


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
    except Exception as error:  # what a hub that is out of reach, or a cache without it, comes to in several libraries
        raise DataError(
            f"{benchmark.name} cannot be loaded from the hub: {first_line(error)}; give a folder with "
            f"{benchmark.name}.jsonl (evaluation.suites.data, or --data)"
        ) from None
    yield from enumerate(rows, start=1)


def _problem(benchmark: Benchmark, number: int, row: dict[str, Any], where: str) -> Problem:
    if not all(isinstance(row.get(field), str) for field in _PROBLEM_FIELDS):
        return benchmark.published.to_problem(benchmark.name, number, row, where)
    metadata = {key: value for key, value in row.items() if key not in (*_PROBLEM_FIELDS, "solution")}
    try:
        return Problem(row["id"], row["problem"], row["answer"], row.get("solution"), metadata)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
