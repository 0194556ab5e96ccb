"""The command line under a launcher."""

from __future__ import annotations

import sys

import pytest

from sage_dpo.cli import app, launcher
from sage_dpo.errors import ConfigError

LAUNCHED = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """This is the second of two processes; returns how long it has slept."""
    slept: list[float] = []
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launcher.time, "sleep", slept.append)
    return slept


def test_what_a_cluster_sets_without_a_launcher_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launcher.launched() == (1, 0)
    launcher.check_shared("select")


@pytest.mark.parametrize("command", ["select", "study", "verify", "gym"])
def test_commands_that_would_do_their_work_twice_are_refused(command: str, second: list[float]) -> None:
    with pytest.raises(ConfigError, match=rf"`sage-dpo {command}` runs in one process, but the launcher has started 2"):
        launcher.check_shared(command)


@pytest.mark.parametrize("command", [*launcher.SHARED, None])
def test_commands_that_share_their_work_are_not(command: str | None, second: list[float]) -> None:
    launcher.check_shared(command)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("LOCAL_RANK", "", r"LOCAL_RANK is ''"),
        ("RANK", None, r"RANK is None"),
        ("WORLD_SIZE", "two", r"WORLD_SIZE is 'two'"),
        ("MASTER_PORT", None, r"MASTER_PORT is None"),
        ("MASTER_ADDR", "", r"MASTER_ADDR is ''"),
    ],
)
def test_half_of_what_a_launcher_sets_is_refused(
    name: str, value: str | None, told: str, second: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"as by a launcher, but {told}; start with `torchrun`.*or unset LOCAL_RANK"):
        launcher.check_shared("run")


@pytest.mark.parametrize("line", ["run", "run quickstart --acept x", "run quickstart --output", "rn"])
def test_a_typing_error_is_told_by_the_main_process(
    line: str, second: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sage-dpo", *line.split()])
    with pytest.raises(SystemExit) as left:
        launcher.start(app)
    assert left.value.code == 2
    told = capsys.readouterr()
    assert (bool(second), told.out) == (True, "")
    assert told.err.startswith("process 1: error: ")
    assert told.err.count("\n") == 1


def test_the_others_give_the_launcher_time_to_end_them_before_they_speak(
    second: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        launcher.fail("error: no memory")
    assert left.value.code == 2
    assert slept_and_said(second, capsys) == (True, "process 1: error: no memory\n")


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:1. Check the logs"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Read error: Connection reset by peer"), True),
        (RuntimeError("unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation to complete"), True),
        (RuntimeError("Connection was likely closed. Did the remote server shutdown or crash?"), True),
        (RuntimeError("NCCL error: ncclRemoteError: A call failed possibly due to a network error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("Connection closed by peer"), False),
    ],
)
def test_a_process_that_is_gone_is_told_from_other_errors(
    error: Exception, is_lost: bool, second: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = launcher.lost_process(error)
    assert (told is not None) == is_lost
    assert told is None or told.startswith(
        "another process has ended, or not answered, while this one waited for it; see its message"
    )
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launcher.lost_process(error) is None


def test_after_ctrl_c_the_others_leave_without_a_word(second: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        launcher.fail("interrupted", launcher.INTERRUPTED)
    assert left.value.code == launcher.INTERRUPTED
    assert slept_and_said(second, capsys) == (False, "")


def test_the_main_process_speaks_at_once(
    second: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit):
        launcher.fail("error: no memory")
    assert slept_and_said(second, capsys) == (False, "error: no memory\n")


def slept_and_said(slept: list[float], capsys: pytest.CaptureFixture[str]) -> tuple[bool, str]:
    return bool(slept), capsys.readouterr().err


@pytest.mark.parametrize(("code", "status"), [(None, 0), (0, 0), (2, 2)])
def test_one_of_several_processes_leaves_without_what_the_interpreter_does_at_its_end(
    code: int | None, status: int, second: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr(launcher.os, "_exit", left.append)
    with launcher.leaving_at_once():
        raise SystemExit(code)
    assert left == [status]
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(SystemExit), launcher.leaving_at_once():
        raise SystemExit(code)
