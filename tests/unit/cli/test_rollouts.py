"""What `sage-dpo rollouts` leaves on disk where several processes sample."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sage_dpo.cli
from sage_dpo.processes import Processes
from sage_dpo.records import Completion, FinishReason
from sage_dpo.run_folder import journal_path, lock_path


class Two(Processes):
    """One of two processes; what it had kept of its completions is looked at when it waits for the other."""

    def __init__(self, index: int, output: Path) -> None:
        super().__init__(2, index)
        self._kept = journal_path(output, index)
        self.kept_while_waiting = False

    def wait(self, what: str = "") -> None:
        self.kept_while_waiting |= self._kept.exists()


@pytest.mark.parametrize(("index", "left"), [(0, set()), (1, {"c.partial.jsonl", "c.partial-3.jsonl"})])
def test_what_was_kept_on_the_way_stays_until_the_whole_is_written(
    index: int, left: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main process also deletes what an attempt of more processes has left."""
    output = tmp_path / "c.parquet"
    processes = Two(index, output)
    for number in (0, 1, 3):
        journal_path(output, number).touch()
    (tmp_path / "c.partial-mine.jsonl").touch()

    monkeypatch.setattr("sage_dpo.processes.start_processes", lambda: processes)
    sample_one(monkeypatch, output)
    assert processes.kept_while_waiting
    assert output.exists() == processes.is_main
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"c.partial-mine.jsonl", *left, *(["c.parquet"] if processes.is_main else [])}


def sample_one(monkeypatch: pytest.MonkeyPatch, output: Path, status: int = 0) -> None:
    """Run the command with one completion that is there at once."""

    def sample(*_: Any, **__: Any) -> list[Completion]:
        return [Completion("p", 0, "2", (1,), (2,), FinishReason.STOP)]

    monkeypatch.setattr("sage_dpo.pipeline.stages.sample_completions", sample)
    monkeypatch.setattr(sys, "argv", f"sage-dpo rollouts --model m --problems p --output {output}".split())
    with pytest.raises(SystemExit) as left_with:
        sage_dpo.cli.main()
    assert left_with.value.code == status


HOLD = """
import re
import subprocess
import sys
from pathlib import Path
from sage_dpo.locks import sole_writer

with sole_writer(Path(sys.argv[1]), Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_job_at_a_time_samples_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "c.parquet"
    command = [sys.executable, "-c", HOLD, str(output), str(lock_path(output))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        sample_one(monkeypatch, output, status=2)
        told = rf"error: another process \(pid {other.pid} on .+\) is writing {output}; wait .* another `--output`\n"
        assert re.fullmatch(told, capsys.readouterr().err)
        assert not output.exists()
        other.kill()  # a lock dies with its process
        other.wait()
    sample_one(monkeypatch, output)
    assert list(output.parent.iterdir()) == [output]
