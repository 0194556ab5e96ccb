"""A small sample of `python -m tests.faults`; the whole takes minutes (docs/reliability.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults import answers

ROOT = Path(__file__).parents[2]

KILLS = """
import json, sys
from pathlib import Path
import sage_dpo.pipeline.run
from tests.faults import inputs, kills
root = Path(sys.argv[1])
found = {"kills": kills.run(root / "kills", count=3, progress=False), "inputs": inputs.run(root / "inputs")}
Path(sys.argv[1], "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """Faults are put into forked children, whose parent must have run nothing: a process of its own."""
    root = tmp_path_factory.mktemp("faults")
    command = [sys.executable, "-c", KILLS, str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((root / "found.json").read_text())


def test_killed_runs_end_like_the_undisturbed_one(found):
    assert found["kills"]["failures"] == []
    assert found["kills"]["same result"] == 3


def test_bad_files_and_numbers_end_a_run_with_one_line(found):
    assert found["inputs"]["failures"] == []
    assert found["inputs"]["peak_mib"] < 2048


def test_hostile_answers_get_a_verdict_in_bounded_memory_and_none_is_executed(tmp_path):
    found = answers.run(tmp_path, count=72)
    assert found["failures"] == []
    assert sum(found["verdicts"].values()) == 72
