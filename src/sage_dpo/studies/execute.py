"""Runs a study's recipes, several at a time, each as `sage-dpo run` in a process of its own.

A run is complete when its `summary.json` is there; the rest is the run folder's own resuming. So a study that was
interrupted, by Ctrl-C or by a power cut, continues where it stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sage_dpo.errors import SageError
from sage_dpo.run_folder import StudyFolder
from sage_dpo.storage import write_text
from sage_dpo.studies.grid import StudyRun

_POLL_S = 0.2
_TAIL = 1500


def execute(runs: Sequence[StudyRun], root: Path, *, workers: int, progress: bool = True) -> None:
    """Run all that are not complete.

    Args:
        runs: in this order.
        root: the study's folder; a run lives in `root/<condition>/seed-<seed>`, its messages beside it in `.log`.
        workers: how many at a time; each gets an equal share of the CPU cores, or `OMP_NUM_THREADS` where that is set.
        progress: show a progress bar.

    Raises:
        RunFolderError: a folder holds a run of another recipe.
        SageError: a run failed; the others that had begun are finished first.
    """
    waiting = [run for run in runs if not run.is_complete(root)]
    running: dict[subprocess.Popen[bytes], StudyRun] = {}
    failed: list[tuple[StudyRun, int]] = []
    bar = tqdm(total=len(runs), initial=len(runs) - len(waiting), desc="runs", disable=not progress)
    stopped: list[int] = []
    previous = _on_sigterm(stopped)
    try:
        while waiting or running:
            while waiting and len(running) < workers and not failed:
                run = waiting.pop(0)
                running[_start(run, root, workers)] = run
            for process in [p for p in running if p.poll() is not None]:
                run = running.pop(process)
                failed += [(run, process.returncode)] if process.returncode else []
                bar.update(not process.returncode)
            if failed and not running:
                break
            bar.set_postfix_str(", ".join(run.id for run in running.values()), refresh=False)
            time.sleep(_POLL_S)
            if stopped:
                raise KeyboardInterrupt
    except BaseException:  # Ctrl-C: the children got it too where there is a terminal; elsewhere they are told
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        raise
    finally:
        bar.close()
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
    if failed:
        raise SageError("\n".join([_explain(run, code, root) for run, code in failed] + [_REMEDY]))


def _on_sigterm(stopped: list[int]) -> Any:
    """Let a batch system's SIGTERM stop the children too, like Ctrl-C; return the handler that was there before.

    It is noted and not raised: raised while a child is being started, it would leave that child behind.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))


def _start(run: StudyRun, root: Path, workers: int) -> subprocess.Popen[bytes]:
    study = StudyFolder(root)
    recipe, folder = study.recipe(run.id), study.run(run.id).root
    write_text(recipe, run.recipe)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // workers))
    command = [sys.executable, "-m", "sage_dpo", "run", str(recipe), "--output", str(folder), "--quiet"]
    with study.log(run.id).open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": threads}
        )


def _cores() -> int:
    """Return the cores this process may use; macOS only tells how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_REMEDY = "Mend the cause and run the same command again to continue."


def _explain(run: StudyRun, code: int, root: Path) -> str:
    log = StudyFolder(root).log(run.id)
    text = log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
    how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
    return f"run {run.id} {how}; {log} ends with:\n{text or '(nothing)'}"
