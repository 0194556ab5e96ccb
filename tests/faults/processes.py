"""Two processes: one that dies ends the run within a minute, and it resumes; bad numbers end both with the message."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
END_S = 60.0


def start(policy: Path, folder: Path, log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start the worker of test_distributed.py on two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", "-m",
        "tests.support.distributed_worker", str(policy), str(folder),
        json.dumps({"per_device_train_batch_size": 2, **options}),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    environment["ACCELERATE_USE_CPU"] = "true"
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)


def ranks(launcher: int) -> list[int]:
    """Return the process ids that a launcher has started, in order."""
    return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]


def make_policy(folder: Path, *, is_nan: bool = False) -> Path:
    from tests.support.tiny import make_tiny_model, make_tiny_tokenizer

    model = make_tiny_model()
    if is_nan:
        next(model.parameters()).data.fill_(float("nan"))
    model.save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return folder


def kill_a_rank(root: Path, *, limit_s: float = 600.0) -> dict[str, Any]:
    """Kill rank 1 after the third step's checkpoint; return how long the run lived on, and whether it resumes."""
    policy = make_policy(root / "policy")
    whole, folder, log = root / "whole", root / "run", root / "log"
    assert start(policy, whole, log).wait(limit_s) == 0, log.read_text()[-3000:]
    process = start(policy, folder, log, max_steps=6)
    deadline = time.monotonic() + limit_s
    while not (folder / "checkpoint-3" / "complete.json").exists():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(ranks(process.pid)[-1], signal.SIGKILL)
    died = time.monotonic()
    code = process.wait(limit_s)
    lived_s = time.monotonic() - died
    shutil.rmtree(folder / "checkpoint-6", ignore_errors=True)  # where the run was faster than the kill
    resumed = start(policy, folder, log, resume=True).wait(limit_s)
    import torch

    same = False
    if resumed == 0:
        first, second = (torch.load(path / "result.pt", weights_only=True) for path in (whole, folder))
        same = all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    return {"code": code, "lived_s": round(lived_s, 1), "resumed": resumed == 0, "same_weights": same}


def bad_numbers(root: Path, *, limit_s: float = 600.0) -> dict[str, Any]:
    """Train on weights that are NaN; return the code, and whether the message is there."""
    log = root / "nan-log"
    process = start(make_policy(root / "nan", is_nan=True), root / "nan-run", log)
    code = process.wait(limit_s)
    return {"code": code, "named": "NumericalError" in log.read_text()}


def run(root: Path, *, seed: int = 0) -> dict[str, Any]:
    killed, numbers = kill_a_rank(root), bad_numbers(root)
    failures = []
    if killed["lived_s"] > END_S:
        failures.append(f"the run lived on for {killed['lived_s']} s after a rank had died")
    if not (killed["resumed"] and killed["same_weights"]):
        failures.append(f"not resumed to the same weights: {killed}")
    if numbers["code"] == 0 or not numbers["named"]:
        failures.append(f"NaN weights: {numbers}")
    return {"dead_rank": killed, "nan_weights": numbers, "failures": failures}
