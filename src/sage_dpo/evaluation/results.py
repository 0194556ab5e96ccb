"""Results of an evaluation, and their files: `<suite>.parquet` with every graded completion, `<suite>.json` with the
summary and the key of the evaluation (weights, problems, settings) it belongs to.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_dpo.errors import DataError
from sage_dpo.records import Completion, FinishReason, Problem, Verdict, VerdictKind
from sage_dpo.rollouts.engine import SamplingParams
from sage_dpo.rules import verdict_counts
from sage_dpo.run_folder import SuitesFolder
from sage_dpo.storage import read_json, read_records, write_json, write_records

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GradedCompletion:
    """One row of `<suite>.parquet`: a completion, the gold answer and the verdict.

    Attributes: as in `records.Completion` and `records.Verdict`; `gold` is `Problem.answer`.
    """

    problem_id: str
    sample: int
    kind: VerdictKind
    gold: str
    extracted: str | None
    method: str
    detail: str
    finish_reason: FinishReason
    text: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class SuiteResult:
    """A policy's result on one suite.

    Attributes:
        name: of the suite.
        sampling: how it was sampled; `samples` is k of avg@k.
        per_problem: correct / k of each problem, in the suite's order. A verdict other than correct (wrong,
            unparseable, timeout, error) is not correct.
        completions, verdicts: by problem, then sample.
        seconds: wall-clock of sampling and grading, when they were done.
        is_partial: fewer problems than the benchmark's record states.
    """

    name: str
    sampling: SamplingParams
    per_problem: tuple[float, ...]
    completions: list[Completion]
    verdicts: list[Verdict]
    seconds: float
    is_partial: bool = False

    @property
    def accuracy(self) -> float:
        """avg@k over all problems, in [0, 1]."""
        return sum(self.per_problem) / len(self.per_problem)

    @property
    def counts(self) -> dict[str, int]:
        """Completions by verdict, those cut at the token limit, and generated tokens."""
        return {
            **verdict_counts(self.verdicts),
            "truncated": sum(completion.finish_reason is FinishReason.LENGTH for completion in self.completions),
            "generated_tokens": sum(len(completion.token_ids) for completion in self.completions),
        }


@dataclass(frozen=True)
class EvaluationResult:
    """A policy's results on all suites."""

    suites: dict[str, SuiteResult]

    @property
    def average(self) -> float:
        """Unweighted mean of the suites' accuracies, in [0, 1]."""
        return sum(suite.accuracy for suite in self.suites.values()) / len(self.suites)

    @property
    def seconds(self) -> float:
        return sum(suite.seconds for suite in self.suites.values())

    @property
    def is_partial(self) -> bool:
        return any(suite.is_partial for suite in self.suites.values())


def write_result(folder: Path, result: SuiteResult, key: Mapping[str, Any], problems: Sequence[Problem]) -> None:
    """Write rows first and the JSON last: a suite without its JSON is not complete."""
    gold = {problem.id: problem.answer for problem in problems}
    rows = [
        GradedCompletion(
            problem_id=completion.problem_id,
            sample=completion.sample,
            kind=verdict.kind,
            gold=gold[completion.problem_id],
            extracted=verdict.extracted,
            method=verdict.method,
            detail=verdict.detail,
            finish_reason=completion.finish_reason,
            text=completion.text,
            prompt_ids=completion.prompt_ids,
            token_ids=completion.token_ids,
        )
        for completion, verdict in zip(result.completions, result.verdicts, strict=True)
    ]
    path = SuitesFolder(folder).result(result.name)
    path.unlink(missing_ok=True)
    write_records(path.with_suffix(".parquet"), rows, GradedCompletion)
    summary = {
        "suite": result.name,
        "accuracy": result.accuracy,
        "is_partial": result.is_partial,
        "per_problem": list(result.per_problem),
        "counts": result.counts,
        "seconds": result.seconds,
        "key": dict(key),
    }
    write_json(path, summary)


def read_result(folder: Path, name: str, key: Mapping[str, Any], sampling: SamplingParams) -> SuiteResult | None:
    """Return the stored result of the same evaluation, or `None`."""
    path = SuitesFolder(folder).result(name)
    if not path.is_file():
        return None
    try:
        summary = read_json(path)
        if summary.get("key") != dict(key):
            return None
        rows = read_records(path.with_suffix(".parquet"), GradedCompletion)
    except DataError as error:
        _logger.warning("evaluating %s again: %s", name, error)
        return None
    return SuiteResult(
        name=name,
        sampling=sampling,
        per_problem=tuple(summary["per_problem"]),
        completions=[
            Completion(row.problem_id, row.sample, row.text, row.prompt_ids, row.token_ids, row.finish_reason)
            for row in rows
        ],
        verdicts=[Verdict(row.problem_id, row.sample, row.kind, row.extracted, row.method, row.detail) for row in rows],
        seconds=summary["seconds"],
        is_partial=summary["is_partial"],
    )
