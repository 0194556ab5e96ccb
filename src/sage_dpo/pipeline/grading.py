"""Grading completions from files: what `sage-dpo verify` does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sage_dpo.config import VerificationSettings
from sage_dpo.errors import DataError
from sage_dpo.problems import load_problems
from sage_dpo.processes import Processes
from sage_dpo.records import Completion, FinishReason, Problem, Verdict
from sage_dpo.rules import verdict_counts
from sage_dpo.storage import numbered_rows, read_records
from sage_dpo.verification import VerificationRequest, Verifier, request_for, requests_for


@dataclass(frozen=True)
class Grades:
    """Verdicts in order, counts by kind, the seconds verification took, and how many answer lines were restored."""

    verdicts: list[Verdict]
    counts: dict[str, int]
    seconds: float
    restored: int


def grade(
    problems_path: Path,
    completions: str,
    verification: VerificationSettings,
    *,
    fields: Mapping[str, str | None],
    restore_answer_line: bool,
    progress: bool,
) -> Grades:
    """Grade completions against the problems' answers.

    Args:
        problems_path: the problems.
        completions: a Parquet file of `Completion` records, a JSONL file with `problem_id` and `completion`, or the
            name of a column of the problems file (`solution`).
        verification: how answers are checked.
        fields: other column names of the problems file.
        restore_answer_line: GSM8K's solutions end in `#### answer`; data sets with the answer in a column of its own
            leave that line out of `solution`. Put it back where a reference solution has neither it nor a box; this
            checks the verifier on the source's text, not the solution's last number.
        progress: show a progress bar.

    Raises:
        DataError: no such file or column, or a completion of an unknown problem.
    """
    problems = load_problems(problems_path, fields=fields).problems
    requests = _requests(problems, completions)
    restored = 0
    if restore_answer_line and completions == "solution" and not Path(completions).is_file():
        marked = [_with_answer_line(request) for request in requests]
        restored = sum(new is not old for new, old in zip(marked, requests, strict=True))
        requests = marked
    with Verifier(**verification.model_dump()) as graders:
        started = time.perf_counter()
        verdicts = graders.verify(requests, progress=progress)
        seconds = time.perf_counter() - started
    return Grades(verdicts, verdict_counts(verdicts), seconds, restored)


def per_process(verification: VerificationSettings, processes: Processes) -> VerificationSettings:
    """Return the settings of each process's graders, which share the workers."""
    return verification.model_copy(update={"workers": max(1, verification.workers // processes.count)})


def _with_answer_line(request: VerificationRequest) -> VerificationRequest:
    if "####" in request.completion or "\\boxed" in request.completion:
        return request
    return replace(request, completion=f"{request.completion}\n#### {request.gold}")


def _requests(problems: list[Problem], completions: str) -> list[VerificationRequest]:
    if not Path(completions).is_file():
        return [request_for(problem, _column(problem, completions)) for problem in problems]
    if completions.endswith(".parquet"):
        records = read_records(completions, Completion)
        if not records:
            raise DataError(f"{completions}: 0 completions; make some with `sage-dpo rollouts`")
        return requests_for(problems, records)
    return requests_for(problems, _read_completions(completions))


def _read_completions(path: str) -> list[Completion]:
    """Read completions without token ids, which grading does not need; a row without `sample` is its own sample."""
    completions = []
    for index, (number, row) in enumerate(numbered_rows(path)):
        text, sample = row.get("completion"), row.get("sample")
        if not isinstance(text, str) or type(sample) not in (int, type(None)) or "problem_id" not in row:
            found = {name: row.get(name) for name in ("problem_id", "completion", "sample") if name in row}
            raise DataError(
                f"{path}, line {number}: has {str(found)[:120]}, expected problem_id, completion (text) and optionally "
                "sample (a whole number); mend this line"
            )
        sample = index if sample is None else sample
        completions.append(Completion(str(row["problem_id"]), sample, text, (), (), FinishReason.STOP))
    if not completions:
        raise DataError(f"{path}: 0 completions; give a file with one completion a line")
    return completions


def _column(problem: Problem, name: str) -> str:
    value = problem.solution if name == "solution" else problem.metadata.get(name)
    if not isinstance(value, str):
        raise DataError(
            f"--completions {name!r} is neither a file nor a text column: problem {problem.id!r} has no such text; "
            f"its columns are id, problem, answer, solution, {', '.join(problem.metadata) or 'no others'}"
        )
    return value
