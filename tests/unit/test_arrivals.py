"""Processes that do not come where all meet. Two real ones, one of them stopped, are in tests/integration."""

from __future__ import annotations

import os
import platform
import threading

import pytest
import torch
from torch.distributed import HashStore

from sage_dpo.arrivals import TIMEOUT_S, TIMEOUT_VARIABLE, Arrivals, chosen_timeout_s
from sage_dpo.errors import ConfigError, ProcessError
from sage_dpo.processes import Processes, _meeting

ME = rf"\(pid {os.getpid()} on {platform.node()}\)"


def test_those_that_have_come_go_on_together() -> None:
    store = HashStore()
    passed: list[int] = []

    def work(index: int) -> None:
        arrivals = Arrivals(store, 3, index, timeout_s=60)
        for _ in range(20):
            arrivals.meet("work")
            passed.append(index)
            arrivals.meet("work")
            assert len(passed) % 3 == 0  # nobody is ahead

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 60


@pytest.mark.parametrize(("index", "speaks"), [(1, True), (3, False)])
def test_those_that_do_not_come_are_named_and_the_first_that_waits_tells_meanwhile(
    index: int, speaks: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four, 1 and 3 come to the second meeting; 2 did not even start."""
    store = HashStore()
    come = [Arrivals(store, 4, index, timeout_s=0.2) for index in (1, 3)]
    Arrivals(store, 4, 0, timeout_s=0.2)
    other, mine = sorted(come, key=lambda arrivals: arrivals._index == index)
    with pytest.raises(ProcessError):
        other.meet("rollouts", within_s=1e-9)
    capsys.readouterr()
    named = rf"process 0 {ME}, process 2 did not come within 0\.2 s \({TIMEOUT_VARIABLE}\), where the others wait for "
    remedy = f"rollouts; if it hangs, run the same command again .* at work, set {TIMEOUT_VARIABLE} higher$"
    with pytest.raises(ProcessError, match=f"^{named}{remedy}"):
        mine.meet("rollouts")
    told = capsys.readouterr().err.splitlines()
    assert bool(told) == speaks
    assert all(line.startswith("process 1: waiting for process 0 (pid ") for line in told)
    assert all(line.endswith(" s: rollouts") for line in told)


def test_marks_of_an_earlier_start_do_not_count() -> None:
    """As where a script runs two recipes."""
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        first, second = (_meeting(2, 0, timeout_s=60)._arrivals for _ in range(2))
        assert first is not None
        assert second is not None
        first._store.set("sage-dpo/1/1", "")  # process 1 comes
        first.meet("work")
        with pytest.raises(ProcessError, match=r"^process 1 did not come within 60 s "):
            second.meet("work", within_s=1e-9)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("text", "seconds"), [(None, TIMEOUT_S), ("", TIMEOUT_S), ("90", 90.0), ("1e5", 1e5)])
def test_the_time_can_be_set(text: str | None, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TIMEOUT_VARIABLE, raising=False) if text is None else monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    assert chosen_timeout_s() == seconds


@pytest.mark.parametrize("text", ["an hour", "0", "-1", "nan", "inf", "1h"])
def test_what_is_no_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"{TIMEOUT_VARIABLE} is '{text}', expected seconds, as 3600; set it so"):
        chosen_timeout_s()


TIMED_OUT = "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation to complete"


@pytest.mark.parametrize(
    ("message", "is_here", "raised"),
    [
        (TIMED_OUT, False, ProcessError),
        (TIMED_OUT, True, RuntimeError),
        ("mat1 and mat2 shapes cannot be multiplied", False, RuntimeError),
    ],
)
def test_a_timeout_in_what_all_do_is_laid_to_who_is_not_heard_of(
    message: str, is_here: bool, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_dpo.processes._TO_BE_HEARD_S", 0.05)
    store = HashStore()
    processes = Processes(2, 0, Arrivals(store, 2, 0, timeout_s=6))
    other = Arrivals(store, 2, 1, timeout_s=6)
    if is_here:
        with pytest.raises(ProcessError):
            other.meet("training", within_s=1e-9)
    with pytest.raises(RuntimeError) as error, processes.naming_the_absent("its part of training"):
        raise RuntimeError(message)
    assert type(error.value) is raised
    assert (f"process 1 (pid {os.getpid()}" in str(error.value)) == (raised is ProcessError)
