"""What the parent and a worker process say to each other: a `Job` there, a `Judgement` back, each a line of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from sage_dpo.records import VerdictKind


@dataclass(frozen=True, slots=True)
class Job:
    """One comparison for math-verify.

    Attributes:
        gold: gold answer.
        text: the answer, or the tail of a completion that marks none, in which to look for one.
        is_marked: whether `text` is the answer.
        answer_type: of the problem (`answer_types.AnswerType`); by default what the gold looks like.
    """

    gold: str
    text: str
    is_marked: bool = True
    answer_type: str | None = None

    @property
    def answer(self) -> str | None:
        return self.text if self.is_marked else None

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: str) -> Job:
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict without its address.

    Attributes:
        kind: as in `Verdict`.
        extracted: the answer that was compared, if there was one.
        detail: for `error` and for a gold that cannot be read, the reason.
        is_fatal: the process that says this must not go on.
    """

    kind: VerdictKind
    extracted: str | None = None
    detail: str = ""
    is_fatal: bool = False

    def to_line(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: bytes) -> Judgement:
        judgement = cls(**json.loads(line))
        return replace(judgement, kind=VerdictKind(judgement.kind))
