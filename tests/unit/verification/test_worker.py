"""The child's side: replies for every way a request can end, and an environment that stays light and bounded."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import pytest

from sage_dpo.records import VerdictKind
from sage_dpo.verification import judge as judge_module
from sage_dpo.verification import worker
from sage_dpo.verification.process import _environment
from sage_dpo.verification.protocol import Job, Judgement


def ask(job: Job, soft_timeout_s: float = 5.0) -> Judgement:
    return worker.answer(job, soft_timeout_s, 20.0)


def test_jobs_and_judgements_survive_the_pipe() -> None:
    job = Job("\u2212\U0001f600\n", "a\u2028b", is_marked=False)
    assert Job.from_line(job.to_line().decode()) == job
    judgement = Judgement(VerdictKind.ERROR, None, "odd\n", is_fatal=True)
    assert Judgement.from_line(judgement.to_line().encode()) == judgement
    assert job.to_line().count(b"\n") == 1
    assert "\n" not in judgement.to_line()


def test_judgement_carries_kind_and_answer() -> None:
    assert ask(Job("x^2+1", "1+x^2")) == Judgement(VerdictKind.CORRECT, "1+x^2")


def test_unmarked_answer_is_found_in_the_tail() -> None:
    assert ask(Job("42", "so there are 6 * 7 = 42", is_marked=False)).kind is VerdictKind.CORRECT
    assert ask(Job("42", "no idea", is_marked=False)).kind is VerdictKind.UNPARSEABLE


def test_slow_job_ends_at_the_soft_deadline() -> None:
    start = time.monotonic()
    assert ask(Job("5", "9^{9^{9^9}}"), soft_timeout_s=0.5).kind is VerdictKind.TIMEOUT
    assert time.monotonic() - start < 5.0
    assert ask(Job("5", "2+3")).kind is VerdictKind.CORRECT  # the alarm is off again


def test_deadline_is_in_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(*arguments: object) -> Judgement:
        time.sleep(1.0)  # as a process does that gets no CPU
        return Judgement(VerdictKind.CORRECT)

    monkeypatch.setattr(judge_module, "judge", sleep)
    assert ask(Job("5", "2+3"), soft_timeout_s=0.9).kind is VerdictKind.CORRECT  # 0.3 s for so short an answer


@pytest.mark.parametrize(
    ("job", "share"),
    [
        (Job("5", "9^{9^9}"), 1 / 3),
        (Job("x" * 30, "y" * 10), 1 / 3),
        (Job("x" * 30, "y" * 30), 1 / 2),
        (Job("x" * 30, "y" * 30, is_marked=False), 1 / 2),
        (Job("x" * 100, "y" * 20), 1.0),
        (Job("5", "y" * 1000, is_marked=False), 1.0),
    ],
)
def test_deadline_grows_with_the_length_of_gold_and_answer(job: Job, share: float) -> None:
    assert worker.deadline_s(job, 6.0) == pytest.approx(6.0 * share)


@pytest.mark.parametrize(
    ("error", "detail", "is_fatal"),
    [
        (MemoryError(), "MemoryError", True),
        (TypeError("odd"), "TypeError: odd", False),
        (RecursionError("x"), "Recurs", False),
    ],
)
def test_exception_becomes_an_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, detail: str, is_fatal: bool
) -> None:
    def explode(*arguments: object) -> Judgement:
        raise error

    monkeypatch.setattr(judge_module, "judge", explode)
    judgement = ask(Job("5", "2+3"))
    assert judgement.kind is VerdictKind.ERROR
    assert judgement.extracted == "2+3"
    assert judgement.detail.startswith(detail)
    assert judgement.is_fatal is is_fatal


def test_worker_stops_after_a_fatal_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*arguments: object) -> Judgement:
        raise MemoryError

    monkeypatch.setattr(judge_module, "judge", exhaust)
    jobs = io.StringIO(Job("5", "x").to_line().decode() * 3)
    replies = io.StringIO()
    worker.serve(jobs, replies, 5.0, 20.0)
    ready, *judgements = replies.getvalue().splitlines()
    assert ready == "ready"
    assert len(judgements) == 1


def test_memory_limit_stops_an_allocation() -> None:
    code = "from sage_dpo.verification.worker import limit_memory; limit_memory(512); bytearray(2**30)"
    result = subprocess.run(
        [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "MemoryError" in result.stderr


def test_neither_side_imports_torch_and_the_parent_not_even_sympy() -> None:
    heavy = "[m for m in ('torch', 'transformers', 'sympy', 'math_verify') if m in sys.modules]"
    for module, expected in (
        ("sage_dpo.verification", "[]"),
        ("sage_dpo.verification.judge", "['sympy', 'math_verify']"),
    ):
        code = f"import sys, {module}; print({heavy})"
        result = subprocess.run(
            [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == expected


def test_library_output_stays_out_of_the_protocol() -> None:
    code = (
        "import sys, sage_dpo.verification.judge as j, sage_dpo.verification.worker as w\n"
        "old = j.judge\n"
        "def noisy(*a):\n    print('noise'); return old(*a)\n"
        "j.judge = noisy\n"
        "w.main(['5', '10', '0'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=_environment(), input=Job("5", "2+3").to_line().decode(),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ready, judgement = result.stdout.splitlines()
    assert ready == "ready"
    assert Judgement.from_line(judgement.encode()).kind is VerdictKind.CORRECT
    assert "noise" in result.stderr
