"""Jobs dealt out to worker processes, their deadlines watched, the dead replaced and only the guilty blamed."""

from __future__ import annotations

import selectors
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from sage_dpo.errors import VerifierError
from sage_dpo.records import VerdictKind
from sage_dpo.verification.process import Limits, WorkerProcess
from sage_dpo.verification.protocol import Job, Judgement

_MAX_FRUITLESS_DEATHS = 3


class Dispatch:
    """One batch of distinct jobs: a single-threaded select loop over the workers.

    Args:
        jobs: what to ask.
        workers: running workers of earlier batches; those that this one starts and buries are put in and taken out.
        max_workers: processes at most.
        limits: of the workers that are started.
        on_judged: called with each job as it is settled.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        workers: list[WorkerProcess],
        max_workers: int,
        limits: Limits,
        on_judged: Callable[[Job], object],
    ) -> None:
        self._waiting = deque(jobs)
        self._count = len(jobs)
        self._workers, self._max_workers, self._limits = workers, min(max_workers, len(jobs)), limits
        self._on_judged = on_judged
        self._judgements: dict[Job, Judgement] = {}
        self._suspects: set[Job] = set()  # failed once in a used process; to be retried alone in a fresh one
        self._fruitless_deaths = 0

    def run(self) -> dict[Job, Judgement]:
        """Return a judgement of every job. Raises `VerifierError` if workers cannot be started."""
        while len(self._judgements) < self._count:
            while len(self._workers) < self._max_workers:
                self._workers.append(WorkerProcess(*self._limits))
            for worker in list(self._workers):
                self._feed(worker)
            for worker in self._readable():
                self._collect(worker)
            for worker in [worker for worker in self._workers if worker.deadline_s <= time.monotonic()]:
                self._bury(worker, is_deadline=True)
        return self._judgements

    def _readable(self) -> list[WorkerProcess]:
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker, selectors.EVENT_READ, worker)
            nearest_s = min((worker.deadline_s for worker in self._workers), default=0.0) - time.monotonic()
            return [key.data for key, _ in selector.select(min(max(nearest_s, 0.0), 60.0))]

    def _feed(self, worker: WorkerProcess) -> None:
        while self._waiting and worker.is_ready:
            job = self._waiting[0]
            if job in self._suspects and not worker.is_fresh:
                if not worker.jobs and not any(other.is_fresh for other in self._workers):
                    self._replace(worker)
                return
            if not worker.has_room_for(job):
                return
            self._waiting.popleft()
            try:
                worker.send(job)
            except BrokenPipeError:
                self._bury(worker)
                return
            if job in self._suspects:
                return

    def _collect(self, worker: WorkerProcess) -> None:
        finished = worker.receive()
        if finished is None:
            self._bury(worker)
            return
        for job, judgement in finished:
            self._fruitless_deaths = 0
            if judgement.is_fatal and job not in self._suspects and worker.served > 1:
                self._retry(job)
            else:
                self._settle(job, judgement)
            if judgement.is_fatal:
                self._replace(worker)
                return

    def _bury(self, worker: WorkerProcess, is_deadline: bool = False) -> None:
        """Kill a stuck or dead worker, blame the job under way, put the others back."""
        if not worker.jobs or not worker.is_ready:
            self._count_fruitless_death(self._replace(worker))
            return
        job, *others = worker.jobs
        last_words = self._replace(worker, others)
        if is_deadline:
            self._settle(job, Judgement(VerdictKind.TIMEOUT, job.answer))
        elif worker.served and job not in self._suspects:
            self._retry(job)
        else:
            self._settle(job, Judgement(VerdictKind.ERROR, job.answer, last_words[:300]))

    def _count_fruitless_death(self, last_words: str) -> None:
        self._fruitless_deaths += 1
        if self._fruitless_deaths >= _MAX_FRUITLESS_DEATHS:
            raise VerifierError(
                f"verification workers ended {self._fruitless_deaths} times without a request ({last_words}); "
                f"check that `{sys.executable} -c 'import math_verify'` works and that memory_limit_mb, "
                f"{self._limits.memory_limit_mb}, is enough for it (at least 512)"
            )

    def _retry(self, job: Job) -> None:
        """Blame a job only for what it does in a fresh process: caches of earlier jobs count against the memory too."""
        self._suspects.add(job)
        self._waiting.appendleft(job)

    def _replace(self, worker: WorkerProcess, unfinished: Iterable[Job] | None = None) -> str:
        """Kill `worker` and return its last words; `run` starts another. Unfinished jobs wait again, in order."""
        self._waiting.extendleft(reversed(list(worker.jobs if unfinished is None else unfinished)))
        self._workers.remove(worker)
        return worker.kill()

    def _settle(self, job: Job, judgement: Judgement) -> None:
        self._judgements[job] = judgement
        self._on_judged(job)
