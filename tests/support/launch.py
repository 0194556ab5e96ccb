"""Programs under torchrun and accelerate launch, on the CPU (gloo)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torchrun(processes: int, *program: object) -> subprocess.Popen[str]:
    """Start `processes` of a program, as `-m module arguments` or `--no-python command arguments`."""
    return _start("torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={_free_port()}", *program)


def accelerate_launch(configuration: Path, processes: int, *program: object) -> subprocess.Popen[str]:
    """Start `processes` of a program, as `-m module arguments`, in float32."""
    options = [f"--num_processes={processes}", f"--main_process_port={_free_port()}", "--mixed_precision=no"]
    return _start("accelerate.commands.launch", f"--config_file={configuration}", *options, *program)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(launcher: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.Popen(
        [sys.executable, "-m", launcher, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a program that must succeed; return what it printed, and its errors."""
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    return output, errors
