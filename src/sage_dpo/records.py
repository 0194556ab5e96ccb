"""The records that stages hand each other: frozen dataclasses, standard library only.

    Problem -> Completion -> Verdict -> PreferencePair -> PairScore

A record validates itself on construction, so that a bad row is caught where it enters, with its id in the message.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sage_dpo.errors import DataError

Messages = list[dict[str, str]]
"""A conversation: `[{"role": "user", "content": "..."}]`."""


class Stratum(StrEnum):
    """Difficulty of a problem for the current policy, by its success rate."""

    EASY = "easy"
    MEDIUM = "medium"
    HARD = "hard"


class VerdictKind(StrEnum):
    """What the verifier found."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def is_known(self) -> bool:
        """Whether it says anything about the completion; a timeout and an error are neither right nor wrong."""
        return self not in (VerdictKind.TIMEOUT, VerdictKind.ERROR)


class FinishReason(StrEnum):
    """Why generation stopped: the end-of-sequence token, or the token limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with a checkable answer.

    Attributes:
        id: unique within a data set.
        problem: statement shown to the policy.
        answer: gold answer as written in the source, without `\\boxed{}`.
        solution: worked solution, if the source has one.
        metadata: anything else from the source (level, subject, gym contexts).
    """

    id: str
    problem: str
    answer: str
    solution: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "problem", "answer"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise DataError(
                    f"problem {self.id!r}: field {name!r} is {value!r}, expected a non-empty string; "
                    "mend this row, or leave it out"
                )


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer to one problem.

    Attributes:
        problem_id: the `Problem.id` answered.
        sample: index of the sample within the problem, from 0.
        text: decoded completion, special tokens removed.
        prompt_ids: token ids of the prompt as the policy saw it (chat template applied).
        token_ids: sampled token ids, the end-of-sequence token included when one was sampled.
        finish_reason: `stop` or `length`.
        policy_version: how many refreshes the sampling policy had seen; 0 is the untrained policy.
    """

    problem_id: str
    sample: int
    text: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    policy_version: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verifier's finding on one completion.

    Attributes:
        problem_id, sample: which completion.
        kind: correct | wrong | unparseable | timeout | error.
        extracted: the answer read out of the completion, as text; `None` if none was found.
        method: how it was decided: `exact`, `duplicate`, `math_verify`, `deadline`, `worker`.
        detail: error message for `error`, else empty.
    """

    problem_id: str
    sample: int
    kind: VerdictKind
    extracted: str | None = None
    method: str = "math_verify"
    detail: str = ""

    @property
    def is_correct(self) -> bool:
        return self.kind is VerdictKind.CORRECT


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A chosen and a rejected completion of the same prompt, tokenised, with provenance.

    Attributes:
        id: unique within a pool.
        problem_id: problem (or data set row) the pair belongs to.
        prompt_ids, chosen_ids, rejected_ids: token ids; completions end with the end-of-sequence token.
        prompt, chosen, rejected: decoded text, for people.
        success_rate: correct / sampled completions of the problem by the sampling policy, in (0, 1);
            `None` if unknown (fixed preference data).
        chosen_sample, rejected_sample: `Completion.sample` of the two; -1 if not sampled by us.
        policy_version: version of the policy that produced the completions.
    """

    id: str
    problem_id: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    prompt: str = ""
    chosen: str = ""
    rejected: str = ""
    success_rate: float | None = None
    chosen_sample: int = -1
    rejected_sample: int = -1
    policy_version: int = 0

    def __post_init__(self) -> None:
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            if len(getattr(self, name)) == 0:
                raise DataError(f"pair {self.id!r}: {name} is empty, expected at least one token; leave this pair out")
        if self.success_rate is not None and not 0.0 <= self.success_rate <= 1.0:
            raise DataError(f"pair {self.id!r}: success_rate is {self.success_rate}, expected a number in [0, 1]")


@dataclass(frozen=True, slots=True)
class PairScore:
    """What the selector saw of one candidate pair at one optimizer step, and what it decided.

    Attributes:
        step: optimizer step (0-based) for which the pair was a candidate.
        pair_id, problem_id: which pair.
        stratum: difficulty stratum of the pair when drawn; empty string if strata are off.
        margin: the margin the selector used, scaled nats.
        gradient_signal, curvature, informativeness, utility: g, h, J, S of docs/method.md. These and the margin are
            NaN if the selector scored nothing.
        is_kept: whether the pair was trained on.
        is_open: whether the gate left it open; true without a gate.
        pool_version: number of refreshes the pool had seen.
    """

    step: int
    pair_id: str
    problem_id: str
    stratum: str
    margin: float
    gradient_signal: float
    curvature: float
    informativeness: float
    utility: float
    is_kept: bool
    pool_version: int
    is_open: bool = True


def problems_sha256(problems: Sequence[Problem]) -> str:
    """Return a hash of what is asked and how it is graded: ids, texts and answers, in order."""
    rows = [[problem.id, problem.problem, problem.answer] for problem in problems]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
