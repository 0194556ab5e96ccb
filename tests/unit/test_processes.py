"""Shares of processes, and what they must agree on. Two real ones are in tests/integration/test_processes.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.standing import Standing

from sage_dpo.digests import file_sha256
from sage_dpo.errors import ConfigError, ProcessError
from sage_dpo.processes import ONE, share_evenly, start_processes


def test_one_process_does_everything_itself() -> None:
    assert ONE.is_main
    assert ONE.share_of([1, 2, 3]) == ONE.gathered([1, 2, 3]) == [1, 2, 3]
    assert ONE.on_main(lambda: "done") == "done"
    ONE.agree("the pool", {"pairs": 3}, remedy="none")


def test_processes_that_agree_go_on() -> None:
    Standing({"files.a": 1, "n": None}, {"files.a": 1}).agree("the pool", {"files": {"a": 1}}, remedy="none")


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"files.a": 2, "n": 1}, r"files\.a is 2 on process 2, expected 1 as on process 0; copy them"),
        ({"n": 1}, r"files\.a is None on process 2, expected 1 "),
        ({"files.a": 1, "n": 1, "more": 5}, r"more is 5 on process 2, expected None "),
        ({}, r"files\.a and 1 more is None on process 2"),
    ],
)
def test_one_that_differs_is_named_with_both_values_and_the_remedy(other: dict[str, int], found: str) -> None:
    same = {"files.a": 1, "n": 1}
    with pytest.raises(ProcessError, match=f"the pool differs between processes: {found}"):
        Standing(same, other).agree("the pool", {"files": {"a": 1}, "n": 1}, remedy="copy them")


def test_a_process_that_does_not_see_the_run_folder_is_named(tmp_path: Path) -> None:
    written = tmp_path / "manifest.json"
    written.write_text("{}")
    same = ("here", file_sha256(written))
    Standing(same).require_shared(written)
    for other, told in ((None, "does not see"), ("0", "sees another")):
        with pytest.raises(ProcessError, match=rf"process 2 on far {told} .*; put the run folder .* share"):
            Standing(same, ("far", other)).require_shared(written)


def test_deepspeed_that_is_asked_for_and_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr("sage_dpo.processes.is_deepspeed_available", lambda: False)
    with pytest.raises(ConfigError, match=r"DeepSpeed, which is not installed.*pip install .sage-dpo.deepspeed.*fsdp2"):
        start_processes()


@pytest.mark.parametrize(
    ("number", "processes", "message"),
    [(5, 2, "set it to a multiple of 2, as 4 or 6"), (3, 8, "set it to a multiple of 8, as 8, or")],
)
def test_a_number_that_holds_for_all_must_divide(number: int, processes: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"pairs is {number}, which {processes} processes cannot share.*{message}"):
        share_evenly("pairs", number, processes)
    assert share_evenly("pairs", 3 * processes, processes) == 3
