"""What is graded: completions joined with their problems' gold answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sage_dpo.errors import DataError
from sage_dpo.records import Completion, Problem
from sage_dpo.verification.answer_types import AnswerType


@dataclass(frozen=True, slots=True)
class VerificationRequest:
    """One completion to be graded.

    Attributes:
        problem_id, sample: which completion; copied into the verdict.
        completion: decoded text.
        gold: gold answer as written in the source, without `\\boxed{}`.
        answer_type: `number`, `choice`, `text` or `expression`; by default what the gold looks like.

    Raises:
        DataError: completion or gold is not text (a null or NaN of a table), the gold is empty, or the type unknown.
    """

    problem_id: str
    sample: int
    completion: str
    gold: str
    answer_type: AnswerType | None = None

    def __post_init__(self) -> None:
        where = f"problem {self.problem_id!r}, sample {self.sample}"
        if not isinstance(self.completion, str):
            raise DataError(f"{where}: the completion is {self.completion!r}, expected text; mend this row")
        if not isinstance(self.gold, str) or not self.gold.strip():
            raise DataError(f"{where}: the gold answer is {self.gold!r}, expected text; mend this problem")
        if self.answer_type is not None:
            if self.answer_type not in list(AnswerType):
                raise DataError(
                    f"{where}: answer_type is {self.answer_type!r}, expected {', '.join(AnswerType)}, or none of them "
                    "to have it told by the gold answer"
                )
            object.__setattr__(self, "answer_type", AnswerType(self.answer_type))


def requests_for(problems: Iterable[Problem], completions: Sequence[Completion]) -> list[VerificationRequest]:
    """Return one request a completion, in order, with the gold answer of its problem.

    A problem's `answer_type` is in its metadata, where a column of that name is loaded to.

    Raises:
        DataError: a completion of a problem that is not among `problems`.
    """
    asked = {problem.id: problem for problem in problems}
    unknown = sorted({completion.problem_id for completion in completions} - set(asked))
    if unknown:
        raise DataError(
            f"the completions answer {len(unknown)} problems that were not given, first {unknown[0]!r}; give the "
            "problems they were sampled for"
        )
    return [request_for(asked[c.problem_id], c.text, c.sample) for c in completions]


def request_for(problem: Problem, completion: str, sample: int = 0) -> VerificationRequest:
    """Return the request that asks whether `completion` answers `problem`."""
    kind = problem.metadata.get("answer_type") or None
    return VerificationRequest(problem.id, sample, completion, problem.answer, kind)
