"""The parent's side: order, duplicates, deadlines, deaths, shutdown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sage_dpo.errors import VerifierError
from sage_dpo.records import VerdictKind
from sage_dpo.rules import verdict_counts
from sage_dpo.verification import VerificationRequest, Verifier
from sage_dpo.verification import verifier as verifier_module
from sage_dpo.verification.process import WorkerProcess, _environment
from sage_dpo.verification.protocol import Job

pytestmark = pytest.mark.slow  # starts worker processes and waits for their deadlines

ENDLESS = "\\boxed{\\log_{5}(9^{9^{9^9}})}"


def box(answer: str, gold: str, sample: int = 0) -> VerificationRequest:
    return VerificationRequest("p", sample, f"\\boxed{{{answer}}}", gold)


def is_alive(pid: int) -> bool:
    """Alive or a zombie: a reaped process has no /proc entry and takes no signal."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(verifier: Verifier) -> list[int]:
    return [worker.pid for worker in verifier._workers]


@pytest.fixture
def one_worker() -> Iterator[Verifier]:
    with Verifier(workers=1, hard_timeout_s=60.0) as verifier:  # a loaded machine is slow by its clock
        yield verifier


def test_verdicts_keep_the_order_and_address_of_the_requests() -> None:
    requests = [
        VerificationRequest(f"p{i}", i % 4, f"\\boxed{{{i}+\\sin x}}", f"\\sin x+{i - i % 2}") for i in range(40)
    ]
    with Verifier(workers=2) as verifier:
        verdicts = verifier.verify(requests)
    assert [(v.problem_id, v.sample) for v in verdicts] == [(r.problem_id, r.sample) for r in requests]
    assert [v.is_correct for v in verdicts] == [i % 2 == 0 for i in range(40)]
    assert verdict_counts(verdicts) == {"correct": 20, "wrong": 20, "unparseable": 0, "timeout": 0, "error": 0}


def test_no_process_starts_while_text_and_numbers_decide() -> None:
    with Verifier() as verifier:
        verdicts = verifier.verify(
            [box("18", "18"), box("19", "18"), box("C", r"\text{(C)}"), VerificationRequest("p", 0, "", "5")]
        )
        assert pids(verifier) == []
    assert [v.kind.value for v in verdicts] == ["correct", "wrong", "correct", "unparseable"]
    assert {v.method for v in verdicts} == {"exact"}


def test_empty_input_gives_no_verdicts() -> None:
    with Verifier() as verifier:
        assert verifier.verify([]) == []
    assert set(verdict_counts([]).values()) == {0}


def test_duplicates_are_verified_once_and_copied(one_worker: Verifier) -> None:
    verdicts = one_worker.verify([box("\\sin x+1", "1+\\sin x", sample=i) for i in range(5)])
    assert [v.method for v in verdicts] == ["math_verify"] + ["duplicate"] * 4
    assert [v.sample for v in verdicts] == list(range(5))
    assert all(v.is_correct for v in verdicts)
    assert one_worker._workers[0].served == 1


def test_workers_stay_between_calls_and_verdicts_repeat(one_worker: Verifier) -> None:
    requests = [box("\\sin x+1", "1+\\sin x"), box("\\ln 8", "3\\ln 2"), box("2\\sin x", "\\sin x")]
    first = one_worker.verify(requests)
    started = pids(one_worker)
    assert one_worker.verify(requests) == first
    assert pids(one_worker) == started


def test_soft_deadline_is_a_timeout_and_the_worker_lives_on(one_worker: Verifier) -> None:
    verdicts = one_worker.verify([VerificationRequest("p", 0, ENDLESS, "5"), box("\\sin x+1", "1+\\sin x")])
    assert [v.kind.value for v in verdicts] == ["timeout", "correct"]
    assert verdicts[0].method == "deadline"
    assert verdicts[0].extracted == "\\log_{5}(9^{9^{9^9}})"
    assert one_worker._workers[0].served == 2


def when_busy(verifier: Verifier, action: Callable[[int], None]) -> threading.Thread:
    """Run `action(pid)` once a worker is under way with a request."""

    def watch() -> None:
        for _ in range(1200):
            workers = list(verifier._workers)
            if workers and workers[0].is_ready and workers[0].jobs:
                action(workers[0].pid)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_hard_deadline_blames_only_the_request_under_way() -> None:
    # a stopped process is deaf to its own alarm, as one inside a long C call is
    requests = [VerificationRequest("p", 0, ENDLESS, "5"), *(box(f"\\sin x+{i}", f"{i}+\\sin x") for i in range(5))]
    with Verifier(workers=1, hard_timeout_s=5.0) as verifier:
        stopper = when_busy(verifier, lambda pid: os.kill(pid, signal.SIGSTOP))
        verdicts = verifier.verify(requests)
        stopper.join()
    assert [v.kind.value for v in verdicts] == ["timeout"] + ["correct"] * 5


def test_crash_blames_only_the_request_under_way(one_worker: Verifier) -> None:
    requests = [VerificationRequest("p", 0, ENDLESS, "5"), *(box(f"\\sin x+{i}", f"{i}+\\sin x") for i in range(5))]
    killer = when_busy(one_worker, lambda pid: os.kill(pid, signal.SIGKILL))
    verdicts = one_worker.verify(requests)
    killer.join()
    assert [v.kind.value for v in verdicts] == ["error"] + ["correct"] * 5
    assert verdicts[0].method == "worker"
    assert "-9" in verdicts[0].detail


def test_crash_of_a_used_worker_is_retried_in_a_fresh_one(one_worker: Verifier) -> None:
    one_worker.verify([box("\\sin x+1", "1+\\sin x")])
    killer = when_busy(one_worker, lambda pid: os.kill(pid, signal.SIGKILL))
    verdict = one_worker.verify([VerificationRequest("p", 0, ENDLESS, "5")])[0]
    killer.join()
    assert verdict.kind is VerdictKind.TIMEOUT  # what a fresh process says of it, not `error`


def test_workers_that_die_at_start_raise_with_their_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "math_verify.py").write_text("raise RuntimeError('broken installation')")
    monkeypatch.setattr(
        "sage_dpo.verification.process._environment",
        lambda: _environment() | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{_environment()['PYTHONPATH']}"},
    )
    with Verifier(workers=1) as verifier:
        with pytest.raises(VerifierError, match=r"(?s)broken installation.*check that.*import math_verify"):
            verifier.verify([box("\\sin x+1", "1+\\sin x")])
        assert pids(verifier) == []


def test_leaving_the_context_reaps_the_workers() -> None:
    with Verifier(workers=2) as verifier:
        verifier.verify([box("\\sin x+1", "1+\\sin x"), box("\\sin x+2", "2+\\sin x")])
        started = pids(verifier)
        assert len(started) == 2
    assert not any(is_alive(pid) for pid in started)
    verifier.close()  # twice is fine


def test_exception_in_the_caller_reaps_the_workers() -> None:
    started: list[int] = []

    def fail_midway() -> None:
        with Verifier(workers=1) as verifier:
            verifier.verify([box("\\sin x+1", "1+\\sin x")])
            started.extend(pids(verifier))
            raise KeyError

    with pytest.raises(KeyError):
        fail_midway()
    assert started
    assert not any(is_alive(pid) for pid in started)


def test_interrupt_while_verifying_reaps_the_workers_and_leaves_a_usable_verifier(
    one_worker: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    original = WorkerProcess.receive

    def interrupted(self: WorkerProcess) -> object:
        started.append(self.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(WorkerProcess, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one_worker.verify([box("\\sin x+1", "1+\\sin x")])
    assert started
    assert not any(is_alive(pid) for pid in started)
    monkeypatch.setattr(WorkerProcess, "receive", original)
    assert one_worker.verify([box("\\sin x+1", "1+\\sin x")])[0].is_correct


SCRIPT = """
import sys
from sage_dpo.verification import VerificationRequest, Verifier
with Verifier(workers=2, soft_timeout_s=60, hard_timeout_s=60) as verifier:
    verifier.verify([VerificationRequest("p", i, "\\\\boxed{\\\\sin x+1}", "1+\\\\sin x+" + str(i)) for i in range(2)])
    print(*[worker.pid for worker in verifier._workers], flush=True)
    verifier.verify([VerificationRequest("p", 0, "\\\\boxed{\\\\log_{5}(9^{9^{9^9}})}", "5")])
"""


@pytest.mark.parametrize(("number", "wait_s"), [(signal.SIGINT, 10.0), (signal.SIGTERM, 10.0)])
def test_signal_to_the_parent_leaves_no_worker_behind(number: signal.Signals, wait_s: float) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(0.5)
    parent.send_signal(number)
    parent.wait(timeout=30)
    parent.stdout.close()
    if number is signal.SIGTERM:
        # nobody could kill them: idle ones end with their pipe, a busy one with its watchdog (60 s + grace here)
        idle_gone_by = time.monotonic() + wait_s
        while time.monotonic() < idle_gone_by and all(is_alive(pid) for pid in workers):
            time.sleep(0.1)
        assert not all(is_alive(pid) for pid in workers)
        for pid in filter(is_alive, workers):
            os.kill(pid, signal.SIGKILL)
    else:
        assert not any(is_alive(pid) for pid in workers)


def test_orphan_is_ended_by_its_own_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_dpo.verification.process.START_TIMEOUT_S", 60.0)
    worker = WorkerProcess(soft_timeout_s=100.0, hard_timeout_s=0.5, memory_limit_mb=0)
    try:
        while not worker.is_ready:
            worker.receive()
        worker.send(Job("5", "9^{9^{9^9}}"))
        assert worker.receive() is None  # end of file: the child ended itself after 0.5 s + grace
    finally:
        assert "code 1" in worker.kill()


def test_verify_works_off_the_main_thread_and_from_several_at_once(one_worker: Verifier) -> None:
    def grade(i: int) -> bool:
        return one_worker.verify([box(f"\\sin x+{i}", f"{i}+\\sin x")])[0].is_correct

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(grade, range(8)))


def test_requests_larger_than_the_pipe_do_not_block() -> None:
    long_sum = "+".join(["y"] * 1800)
    requests = [box(f"{long_sum}+{i}", "(0,1") for i in range(30)]  # 30 * 3.6 kB > 64 kB of pipe
    with Verifier(workers=1) as verifier:
        verdicts = verifier.verify(requests)
    assert {v.kind.value for v in verdicts} == {"unparseable"}  # the gold is unreadable, so each takes milliseconds


def test_unmarked_answers_can_be_refused() -> None:
    request = VerificationRequest("p", 0, "so 6 * 7 makes 42", "42")
    with Verifier(workers=1) as lenient:
        assert lenient.verify([request])[0].is_correct
    with Verifier(workers=1, accepts_unmarked=False) as strict:
        assert strict.verify([request])[0].kind is VerdictKind.UNPARSEABLE
        assert pids(strict) == []


def test_completion_cut_inside_its_box_is_unparseable_without_a_worker() -> None:
    with Verifier() as verifier:
        verdict = verifier.verify([VerificationRequest("p", 0, "so it is 12, \\boxed{12", "12")])[0]
        assert pids(verifier) == []
    assert verdict.kind is VerdictKind.UNPARSEABLE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"soft_timeout_s": 0.0}, "expected 0 < soft"),
        ({"hard_timeout_s": 1.0}, "soft <= hard"),
    ],
)
def test_impossible_settings_are_rejected(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Verifier(**arguments)  # type: ignore[arg-type]


def test_progress_is_silent_unless_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    with Verifier() as verifier:
        verifier.verify([box("1", "1")])
        assert capfd.readouterr().err == ""
        verifier.verify([box("1", "1")], progress=True)
    assert "verify" in capfd.readouterr().err


def test_workers_of_another_process_are_left_alone() -> None:
    class Worker:
        def kill(self) -> str:
            raise AssertionError("a forked copy must not kill its parent's workers")

    verifier_module._kill_all([Worker()], owner_pid=os.getpid() + 1)  # type: ignore[list-item]
