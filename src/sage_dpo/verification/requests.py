"""What is graded: completions joined with their problems' gold answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sage_dpo.errors import DataError
from sage_dpo.records import Completion, Problem


@dataclass(frozen=True, slots=True)
class VerificationRequest:
    """One completion to be graded.

    Attributes:
        problem_id, sample: which completion; copied into the verdict.
        completion: decoded text.
        gold: gold answer as written in the source, without `\\boxed{}`.
    """

    problem_id: str
    sample: int
    completion: str
    gold: str


def requests_for(problems: Iterable[Problem], completions: Sequence[Completion]) -> list[VerificationRequest]:
    """Return one request a completion, in order, with the gold answer of its problem.

    Raises:
        DataError: a completion of a problem that is not among `problems`.
    """
    gold = {problem.id: problem.answer for problem in problems}
    unknown = sorted({completion.problem_id for completion in completions} - set(gold))
    if unknown:
        raise DataError(
            f"the completions answer {len(unknown)} problems that were not given, first {unknown[0]!r}; give the "
            "problems they were sampled for"
        )
    return [VerificationRequest(c.problem_id, c.sample, c.text, gold[c.problem_id]) for c in completions]
