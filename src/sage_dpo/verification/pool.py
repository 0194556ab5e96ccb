"""`Verifier`: many completions in, one verdict each out, in order, whatever the completions contain."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

from sage_dpo.errors import VerifierError
from sage_dpo.records import Verdict, VerdictKind
from sage_dpo.verification.answers import compare_answers, prepare_pair
from sage_dpo.verification.extraction import extract_answer, last_result, unmarked_tail
from sage_dpo.verification.magnitude import is_hopeless
from sage_dpo.verification.process import WorkerProcess

_MAX_FRUITLESS_DEATHS = 3


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


class Verifier:
    """Grades completions against gold answers; a context manager that owns its worker processes.

    Text, plain numbers and small polynomials are compared here (method `exact`). The rest goes to worker processes that
    run math-verify (method `math_verify`), each (gold, answer) once (`duplicate`). Workers start when first needed, and
    then stay.

    Args:
        workers: processes at most.
        soft_timeout_s: alarm inside the worker for one request, seconds of CPU time. Gold and answer of less than 120
            characters together are allowed less, in proportion, but at least a third (`worker.deadline_s`).
        hard_timeout_s: seconds on the clock after which a worker is killed and replaced; only the request under way is
            blamed.
        memory_limit_mb: address space of a worker; 0 for no limit. An answer that needs more is an `error`.
        accepts_unmarked: look for the last result, formula or number in a completion that marks no answer; if false,
            such completions are `unparseable`.

    Verdicts: `timeout` (verdict unknown: method `deadline`, or `magnitude` for an answer such as `9^{9^{9^9}}`, which
    would be sure to reach it and is not tried), `error` (worker crashed or ran out of memory, also when retried in a
    fresh process: method `worker`), `unparseable` (no answer found, or a gold that only an equal spelling could match).
    """

    def __init__(
        self,
        workers: int = 2,
        soft_timeout_s: float = 3.0,
        hard_timeout_s: float = 10.0,
        memory_limit_mb: int = 2048,
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
        self._worker_settings = (soft_timeout_s, hard_timeout_s, memory_limit_mb)
        self._accepts_unmarked = accepts_unmarked
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
            verdicts: list[Verdict | None] = []
            jobs: dict[tuple[str, str, bool], list[int]] = {}
            for index, request in enumerate(requests):
                verdict, key = self._triage(request)
                verdicts.append(verdict)
                if key is not None:
                    jobs.setdefault(key, []).append(index)
                else:
                    bar.update()
            for key, verdict in self._run(list(jobs), bar, [len(indices) for indices in jobs.values()]).items():
                for rank, index in enumerate(jobs[key]):
                    request = requests[index]
                    method = "duplicate" if rank else verdict.method
                    verdicts[index] = replace(
                        verdict, problem_id=request.problem_id, sample=request.sample, method=method
                    )
        return [verdict for verdict in verdicts if verdict is not None]

    def _triage(self, request: VerificationRequest) -> tuple[Verdict | None, tuple[str, str, bool] | None]:
        """Return the verdict, if no worker is needed, else the job's key: (gold, answer or tail, is marked)."""
        extraction = extract_answer(request.completion)
        answer = extraction.answer
        address = (request.problem_id, request.sample)
        if answer is None:
            tail = unmarked_tail(request.completion)
            if not self._accepts_unmarked or not tail or extraction.is_truncated or extraction.is_too_long:
                return Verdict(*address, VerdictKind.UNPARSEABLE, None, "exact"), None
            answer = last_result(tail)
            if answer is None:
                return None, (request.gold, tail, False)
        is_correct = compare_answers(request.gold, answer)
        if is_correct is None:
            if is_hopeless(*prepare_pair(request.gold, answer)[:2]):
                return Verdict(*address, VerdictKind.TIMEOUT, answer, "magnitude"), None
            return None, (request.gold, answer, True)
        return Verdict(*address, VerdictKind.CORRECT if is_correct else VerdictKind.WRONG, answer, "exact"), None

    def _run(
        self, keys: list[tuple[str, str, bool]], bar: tqdm[Any], weights: list[int]
    ) -> dict[tuple[str, str, bool], Verdict]:
        if not keys:
            return {}
        if os.name != "posix":
            raise VerifierError(f"verification workers need POSIX, got {sys.platform}; use Linux, macOS or WSL")
        run = _Run(keys, self._workers, self._worker_settings, self._max_workers, bar, weights)
        try:
            run.loop()
        except BaseException:
            _kill_all(self._workers, os.getpid())  # replies to an abandoned run must not reach the next one
            raise
        return {keys[job]: verdict for job, verdict in run.verdicts.items()}


class _Run:
    """One `verify` call: a single-threaded select loop that feeds workers and watches their deadlines."""

    def __init__(
        self,
        keys: list[tuple[str, str, bool]],
        workers: list[WorkerProcess],
        settings: tuple[float, float, int],
        max_workers: int,
        bar: tqdm[Any],
        weights: list[int],
    ) -> None:
        self.verdicts: dict[int, Verdict] = {}
        self._keys, self._weights, self._bar = keys, weights, bar
        self._workers, self._settings, self._max_workers = workers, settings, min(max_workers, len(keys))
        self._waiting = deque(range(len(keys)))
        self._suspects: set[int] = set()  # failed once in a used process; to be retried alone in a fresh one
        self._fruitless_deaths = 0

    def loop(self) -> None:
        while len(self.verdicts) < len(self._keys):
            while len(self._workers) < self._max_workers:
                self._workers.append(WorkerProcess(*self._settings))
            for worker in list(self._workers):
                self._feed(worker)
            for worker in self._readable():
                self._collect(worker)
            for worker in [worker for worker in self._workers if worker.deadline_s <= time.monotonic()]:
                self._bury(worker, is_deadline=True)

    def _readable(self) -> list[WorkerProcess]:
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker, selectors.EVENT_READ, worker)
            nearest_s = min((worker.deadline_s for worker in self._workers), default=0.0) - time.monotonic()
            return [key.data for key, _ in selector.select(min(max(nearest_s, 0.0), 60.0))]

    def _feed(self, worker: WorkerProcess) -> None:
        while self._waiting and worker.is_ready:
            job = self._waiting[0]
            if job in self._suspects and (worker.served or worker.jobs):
                if not (worker.jobs or any(not other.served and not other.jobs for other in self._workers)):
                    self._replace(worker)
                return
            line = self._encode(job)
            if not worker.has_room_for(len(line)):
                return
            self._waiting.popleft()
            try:
                worker.send(job, line)
            except BrokenPipeError:
                self._bury(worker)
                return
            if job in self._suspects:
                return

    def _encode(self, job: int) -> bytes:
        gold, text, is_marked = self._keys[job]
        return json.dumps({"gold": gold, "answer" if is_marked else "tail": text}).encode() + b"\n"

    def _collect(self, worker: WorkerProcess) -> None:
        finished = worker.receive()
        if finished is None:
            self._bury(worker)
            return
        for job, reply in finished:
            self._fruitless_deaths = 0
            if reply.get("is_fatal") and job not in self._suspects and worker.served > 1:
                self._retry(job)
            else:
                self._settle(job, VerdictKind(reply["kind"]), reply["extracted"], reply.get("detail", ""))
            if reply.get("is_fatal"):
                self._replace(worker)
                return

    def _bury(self, worker: WorkerProcess, is_deadline: bool = False) -> None:
        """Kill a stuck or dead worker, blame the job under way, put the others back."""
        was_ready, served, jobs = worker.is_ready, worker.served, [job for job, _ in worker.jobs]
        last_words = self._replace(worker, jobs[1:])
        if not jobs or not was_ready:
            self._waiting.extendleft(reversed(jobs))
            self._fruitless_deaths += 1
            if self._fruitless_deaths >= _MAX_FRUITLESS_DEATHS:
                raise VerifierError(
                    f"verification workers ended {self._fruitless_deaths} times without a request ({last_words}); "
                    f"check that `{sys.executable} -c 'import math_verify'` works and that memory_limit_mb, "
                    f"{self._settings[2]}, is enough for it (at least 512)"
                )
            return
        job = jobs[0]
        if is_deadline:
            self._settle(job, VerdictKind.TIMEOUT, self._marked_answer(job), "")
        elif served and job not in self._suspects:
            self._retry(job)
        else:
            self._settle(job, VerdictKind.ERROR, self._marked_answer(job), last_words[:300])

    def _retry(self, job: int) -> None:
        """Blame a job only for what it does in a fresh process: caches of earlier jobs count against the memory too."""
        self._suspects.add(job)
        self._waiting.appendleft(job)

    def _replace(self, worker: WorkerProcess, unfinished: Sequence[int] | None = None) -> str:
        """Kill `worker` and return its last words; the loop starts another. Unfinished jobs wait again, in order."""
        unfinished = [job for job, _ in worker.jobs] if unfinished is None else unfinished
        self._waiting.extendleft(reversed(unfinished))
        self._workers.remove(worker)
        return worker.kill()

    def _marked_answer(self, job: int) -> str | None:
        _, text, is_marked = self._keys[job]
        return text if is_marked else None

    def _settle(self, job: int, kind: VerdictKind, extracted: str | None, detail: str) -> None:
        method = {VerdictKind.TIMEOUT: "deadline", VerdictKind.ERROR: "worker"}.get(kind, "math_verify")
        self.verdicts[job] = Verdict("", -1, kind, extracted, method, detail)
        self._bar.update(self._weights[job])


def _kill_all(workers: list[WorkerProcess], owner_pid: int) -> None:
    if os.getpid() != owner_pid:
        return  # a forked copy of the parent does not own the workers
    while workers:
        with contextlib.suppress(OSError):
            workers.pop().kill()
