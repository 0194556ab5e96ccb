"""Which runs are started, and what is left when one fails. A shell script stands in for `sage-dpo run`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.config import RunConfig, load_config, validate
from sage_dpo.errors import RunFolderError, SageError
from sage_dpo.studies.config import ConditionSettings
from sage_dpo.studies.execute import execute
from sage_dpo.studies.grid import StudyRun

# Called as: -m sage_dpo run RECIPE --output FOLDER --quiet
SCRIPT = """#!/bin/sh
echo "$6 $OMP_NUM_THREADS" >> "{calls}"
case "$6" in *bad*) if [ ! -e "{mended}" ]; then echo "error: no such policy"; exit 2; fi;; *killed*) kill -9 $$;; esac
case "$6" in *slow*) echo $$ > "{calls}.pid"; exec sleep 60;; esac
mkdir -p "$6" && cp "$4" "$6/config.yaml" && echo '{{}}' > "$6/summary.json"
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "python"
    script.write_text(SCRIPT.format(calls=tmp_path / "calls", mended=tmp_path / "mended"), encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return tmp_path / "study"


def make_run(name: str, seed: int = 0) -> StudyRun:
    config = validate(RunConfig, {"name": name, "seed": seed, "problems": {"kind": "gym"}})
    return StudyRun(ConditionSettings(name=name), seed, config, {"sage": ("sage", None)})


def started(root: Path) -> list[str]:
    """Runs that were started, in order."""
    path = root.parent / "calls"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [str(Path(line.split()[0]).relative_to(root)) for line in lines]


def run_all(root: Path, *runs: StudyRun, workers: int = 1) -> None:
    execute(runs, root, workers=workers, progress=False)


def test_runs_are_started_in_order_each_with_its_recipe(root: Path) -> None:
    runs = [make_run("a"), make_run("b"), make_run("a", seed=1)]
    run_all(root, *runs)
    assert started(root) == ["a/seed-0", "b/seed-0", "a/seed-1"]
    assert all(load_config(root / f"{run.id}.yaml") == run.config for run in runs)


def test_complete_runs_are_not_started(root: Path) -> None:
    run_all(root, make_run("a"))
    run_all(root, make_run("a"), make_run("b"))
    assert started(root) == ["a/seed-0", "b/seed-0"]


def test_a_run_without_summary_is_started_again(root: Path) -> None:
    for _ in range(2):
        run_all(root, make_run("a"))
        (root / "a" / "seed-0" / "summary.json").unlink()
    assert started(root) == ["a/seed-0", "a/seed-0"]


def test_a_complete_run_of_another_recipe_is_refused_before_any_is_started(root: Path) -> None:
    run_all(root, make_run("a"))
    changed = make_run("a")
    changed = replace(changed, config=changed.config.model_copy(update={"seed": 5}))
    with pytest.raises(RunFolderError, match=r"seed-0 holds a run of another recipe"):
        run_all(root, make_run("b"), changed)
    assert started(root) == ["a/seed-0"]


def test_an_unfinished_run_of_another_recipe_is_refused_with_what_changed(root: Path) -> None:
    run_all(root, make_run("a"))
    (root / "a" / "seed-0" / "summary.json").unlink()
    changed = make_run("a")
    changed = replace(changed, config=changed.config.model_copy(update={"seed": 5, "output_dir": "elsewhere"}))
    message = r"\(changed: seed: 5; output_dir: elsewhere\); give another `--output`, or move that folder away"
    with pytest.raises(RunFolderError, match=message):
        run_all(root, changed)


def test_a_failing_run_is_named_with_its_exit_code_and_the_end_of_its_log(root: Path) -> None:
    message = r"(?s)run bad/seed-0 failed with exit code 2; .*seed-0\.log ends with:\nerror: no such policy\nMend"
    with pytest.raises(SageError, match=message):
        run_all(root, make_run("bad"))


def test_a_killed_run_is_named_with_its_signal(root: Path) -> None:
    message = r"run killed/seed-0 was killed by signal 9; .*ends with:\n\(nothing\)"
    with pytest.raises(SageError, match=message):
        run_all(root, make_run("killed"))


def test_every_failed_run_is_named(root: Path) -> None:
    with pytest.raises(SageError) as caught:
        run_all(root, make_run("bad"), make_run("killed"), workers=2)
    assert str(caught.value).count("ends with:") == 2
    assert str(caught.value).endswith("Mend the cause and run the same command again to continue.")


def test_a_failure_stops_what_had_not_begun_and_keeps_what_was_done(root: Path) -> None:
    with pytest.raises(SageError):
        run_all(root, make_run("a"), make_run("bad"), make_run("c"))
    assert started(root) == ["a/seed-0", "bad/seed-0"]
    assert (root / "a" / "seed-0" / "summary.json").is_file()


def test_a_run_beside_a_failing_one_is_finished(root: Path) -> None:
    with pytest.raises(SageError):
        run_all(root, make_run("bad"), make_run("a"), workers=2)
    assert (root / "a" / "seed-0" / "summary.json").is_file()


def test_after_mending_the_same_folder_is_continued(root: Path) -> None:
    runs = [make_run("a"), make_run("bad"), make_run("c")]
    with pytest.raises(SageError):
        run_all(root, *runs)
    (root.parent / "mended").touch()
    run_all(root, *runs)
    assert started(root) == ["a/seed-0", "bad/seed-0", "bad/seed-0", "c/seed-0"]
    assert all((root / run.id / "summary.json").is_file() for run in runs)


def test_workers_share_the_cores(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))
    run_all(root, make_run("a"), workers=3)
    assert (root.parent / "calls").read_text(encoding="utf-8").split()[1] == "2"


def test_a_number_of_threads_that_the_user_set_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run_all(root, make_run("a"), workers=3)
    assert (root.parent / "calls").read_text(encoding="utf-8").split()[1] == "5"


def test_sigterm_ends_the_runs_too(root: Path) -> None:
    def before(_signal: int, _frame: Any) -> None:
        raise AssertionError("SIGTERM reached the handler that was there before")

    pid_file = root.parent / "calls.pid"

    def terminate() -> None:
        while not (pid_file.exists() and pid_file.read_text(encoding="utf-8").strip()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    original = signal.signal(signal.SIGTERM, before)
    try:
        threading.Thread(target=terminate, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            run_all(root, make_run("slow"))
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, original)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text(encoding="utf-8")), 0)
