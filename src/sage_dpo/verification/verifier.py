"""`Verifier`: many completions in, one verdict each out, in order, whatever the completions contain."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType

from tqdm.auto import tqdm

from sage_dpo.config import VerificationSettings
from sage_dpo.errors import VerifierError
from sage_dpo.records import Verdict, VerdictKind
from sage_dpo.verification.answer_types import AnswerType, answer_type, is_number
from sage_dpo.verification.answers import compare_answers
from sage_dpo.verification.dispatch import Dispatch
from sage_dpo.verification.extraction import Tags, extract_answer
from sage_dpo.verification.process import Limits, WorkerProcess
from sage_dpo.verification.protocol import Job, Judgement
from sage_dpo.verification.requests import VerificationRequest
from sage_dpo.verification.statements import last_result, stated_answer, stated_number, unmarked_tail

_DEFAULTS = VerificationSettings()
_METHODS = {VerdictKind.TIMEOUT: "deadline", VerdictKind.ERROR: "worker"}


class Verifier:
    """Grades completions against gold answers; a context manager that owns its worker processes.

    Text and plain numbers are compared here (method `exact`). The rest goes to worker processes that run math-verify
    (method `math_verify`), each (gold, answer) once (`duplicate`). Workers start when first needed, and then stay.

    Args:
        workers: processes at most.
        soft_timeout_s: alarm inside the worker for one request, seconds of CPU time. Gold and answer of less than 120
            characters together are allowed less, in proportion, but at least a third (`worker.deadline_s`).
        hard_timeout_s: seconds on the clock after which a worker is killed and replaced; only the request under way is
            blamed.
        memory_limit_mb: address space of a worker; 0 for no limit. An answer that needs more is an `error`.
        thinking_tags, answer_tags: as in `config.VerificationSettings`.
        accepts_unmarked: look for the last result, formula or number in a completion that marks no answer; if false,
            such completions are `unparseable`.

    Verdicts beside correct and wrong: `timeout` (unknown: method `deadline`), `error` (worker crashed or ran out of
    memory, also when retried in a fresh process: method `worker`), `unparseable` (no answer found, or a gold that only
    an equal spelling could match).
    """

    def __init__(
        self,
        workers: int = _DEFAULTS.workers,
        soft_timeout_s: float = _DEFAULTS.soft_timeout_s,
        hard_timeout_s: float = _DEFAULTS.hard_timeout_s,
        memory_limit_mb: int = _DEFAULTS.memory_limit_mb,
        thinking_tags: Tags = _DEFAULTS.thinking_tags,
        answer_tags: Tags = _DEFAULTS.answer_tags,
        accepts_unmarked: bool = True,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}, expected at least 1")
        if not 0.0 < soft_timeout_s <= hard_timeout_s:
            raise ValueError(
                f"soft_timeout_s is {soft_timeout_s} and hard_timeout_s {hard_timeout_s}, expected 0 < soft <= hard; "
                "the hard deadline is for workers that ignore the soft one"
            )
        self._max_workers = workers
        self._limits = Limits(soft_timeout_s, hard_timeout_s, memory_limit_mb)
        self._accepts_unmarked = accepts_unmarked
        self._thinking_tags, self._answer_tags = thinking_tags, answer_tags
        self._workers: list[WorkerProcess] = []
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, os.getpid())

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill and reap the workers. A closed verifier may be used again: it starts new ones."""
        _kill_all(self._workers, os.getpid())

    def verify(self, requests: Sequence[VerificationRequest], progress: bool = False) -> list[Verdict]:
        """Return one verdict per request, in order.

        Raises:
            VerifierError: workers cannot be started (the message carries their last words).
        """
        with self._lock, tqdm(total=len(requests), desc="verify", unit="answer", disable=not progress) as bar:
            verdicts: dict[int, Verdict] = {}
            jobs: dict[Job, list[int]] = {}
            for index, request in enumerate(requests):
                finding = self._triage(request)
                if isinstance(finding, Job):
                    jobs.setdefault(finding, []).append(index)
                else:
                    verdicts[index] = finding
                    bar.update()
            judgements = self._judge(list(jobs), lambda job: bar.update(len(jobs[job])))
            for job, indices in jobs.items():
                for rank, index in enumerate(indices):
                    verdicts[index] = _verdict(requests[index], judgements[job], is_copy=rank > 0)
        return [verdicts[index] for index in range(len(requests))]

    def _triage(self, request: VerificationRequest) -> Verdict | Job:
        """Return the verdict, if text and numbers decide, else what to ask a worker."""
        kind = request.answer_type or answer_type(request.gold)
        extraction = extract_answer(request.completion, self._thinking_tags, self._answer_tags)
        answer = extraction.answer
        if answer is None and self._accepts_unmarked and not extraction.is_truncated and not extraction.is_too_long:
            tail = unmarked_tail(extraction.text)
            if kind is AnswerType.EXPRESSION and tail:
                answer = last_result(tail)
                if answer is None:
                    return Job(request.gold, tail, is_marked=False, answer_type=kind)
            else:
                answer = stated_answer(tail, request.gold, kind)
        elif answer is not None and extraction.is_prose and kind is AnswerType.NUMBER and not is_number(answer):
            answer = stated_number(answer)
        if answer is None:
            return Verdict(request.problem_id, request.sample, VerdictKind.UNPARSEABLE, None, "exact")
        is_correct = compare_answers(request.gold, answer, kind)
        if is_correct is None:
            return Job(request.gold, answer, answer_type=kind)
        verdict = VerdictKind.CORRECT if is_correct else VerdictKind.WRONG
        return Verdict(request.problem_id, request.sample, verdict, answer, "exact")

    def _judge(self, jobs: list[Job], on_judged: Callable[[Job], object]) -> dict[Job, Judgement]:
        if not jobs:
            return {}
        if os.name != "posix":
            raise VerifierError(f"verification workers need POSIX, got {sys.platform}; use Linux, macOS or WSL")
        try:
            return Dispatch(jobs, self._workers, self._max_workers, self._limits, on_judged).run()
        except BaseException:
            _kill_all(self._workers, os.getpid())  # replies to an abandoned run must not reach the next one
            raise


def _verdict(request: VerificationRequest, judgement: Judgement, is_copy: bool) -> Verdict:
    method = "duplicate" if is_copy else _METHODS.get(judgement.kind, "math_verify")
    return Verdict(request.problem_id, request.sample, judgement.kind, judgement.extracted, method, judgement.detail)


def _kill_all(workers: list[WorkerProcess], owner_pid: int) -> None:
    if os.getpid() != owner_pid:
        return  # a forked copy of the parent does not own the workers
    while workers:
        with contextlib.suppress(OSError):
            workers.pop().kill()
