"""The child's side: replies for every way a request can end, and an environment that stays light and bounded."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time

import pytest

from sage_dpo.records import VerdictKind
from sage_dpo.verification import judge as judge_module
from sage_dpo.verification import worker
from sage_dpo.verification.judge import Judgement
from sage_dpo.verification.process import _environment


def ask(request: dict[str, str], soft_timeout_s: float = 5.0) -> dict[str, object]:
    return worker.answer_request(request, soft_timeout_s, 20.0)


def test_reply_carries_kind_and_answer() -> None:
    assert ask({"gold": "x^2+1", "answer": "1+x^2"}) == {"kind": "correct", "extracted": "1+x^2", "detail": ""}


def test_unmarked_answer_is_found_in_the_tail() -> None:
    assert ask({"gold": "42", "tail": "so there are 6 * 7 = 42"})["kind"] == "correct"
    assert ask({"gold": "42", "tail": "no idea"})["kind"] == "unparseable"


def test_slow_request_ends_at_the_soft_deadline() -> None:
    start = time.monotonic()
    assert ask({"gold": "5", "answer": "9^{9^{9^9}}"}, soft_timeout_s=0.5)["kind"] == "timeout"
    assert time.monotonic() - start < 5.0
    assert ask({"gold": "5", "answer": "2+3"})["kind"] == "correct"  # the alarm is off again


def test_deadline_is_in_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(gold: str, prediction: str) -> Judgement:
        time.sleep(1.0)  # as a process does that gets no CPU
        return Judgement(VerdictKind.CORRECT)

    monkeypatch.setattr(judge_module, "judge", sleep)
    assert ask({"gold": "5", "answer": "2+3"}, soft_timeout_s=0.9)["kind"] == "correct"  # 0.3 s for so short an answer


@pytest.mark.parametrize(
    ("request_", "share"),
    [
        ({"gold": "5", "answer": "9^{9^9}"}, 1 / 3),
        ({"gold": "x" * 30, "answer": "y" * 10}, 1 / 3),
        ({"gold": "x" * 30, "answer": "y" * 30}, 1 / 2),
        ({"gold": "x" * 30, "tail": "y" * 30}, 1 / 2),
        ({"gold": "x" * 100, "answer": "y" * 20}, 1.0),
        ({"gold": "5", "tail": "y" * 1000}, 1.0),
    ],
)
def test_deadline_grows_with_the_length_of_gold_and_answer(request_: dict[str, str], share: float) -> None:
    assert worker.deadline_s(request_, 6.0) == pytest.approx(6.0 * share)


@pytest.mark.parametrize(
    ("error", "detail", "is_fatal"),
    [
        (MemoryError(), "MemoryError", True),
        (TypeError("odd"), "TypeError: odd", False),
        (RecursionError("x"), "Recurs", False),
    ],
)
def test_exception_becomes_an_error_reply(
    monkeypatch: pytest.MonkeyPatch, error: Exception, detail: str, is_fatal: bool
) -> None:
    def explode(gold: str, prediction: str) -> Judgement:
        raise error

    monkeypatch.setattr(judge_module, "judge", explode)
    reply = ask({"gold": "5", "answer": "2+3"})
    assert reply["kind"] == VerdictKind.ERROR.value
    assert str(reply["detail"]).startswith(detail)
    assert bool(reply.get("is_fatal")) is is_fatal


def test_worker_stops_after_a_fatal_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(gold: str, prediction: str) -> Judgement:
        raise MemoryError

    monkeypatch.setattr(judge_module, "judge", exhaust)
    requests = io.StringIO('{"gold": "5", "answer": "x"}\n' * 3)
    replies = io.StringIO()
    worker.serve(requests, replies, 5.0, 20.0)
    ready, *answers = [json.loads(line) for line in replies.getvalue().splitlines()]
    assert ready == {"ready": True}
    assert len(answers) == 1


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
        "def noisy(g, p):\n    print('noise'); return old(g, p)\n"
        "j.judge = noisy\n"
        "w.main(['5', '10', '0'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=_environment(), input='{"gold": "5", "answer": "2+3"}\n',
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [json.loads(line).get("kind") for line in result.stdout.splitlines()] == [None, "correct"]
    assert "noise" in result.stderr
