"""A whole run on two processes: the selections of one, one writer, and what a killed process leaves behind."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.support.launch import accelerate_launch, finish, torchrun
from tests.support.small_run import alone, counted, losses, selections, write_recipe

from sage_dpo.arrivals import TIMEOUT_VARIABLE
from sage_dpo.config import find_launcher
from sage_dpo.errors import RunFolderError
from sage_dpo.records import Completion, PreferencePair, Verdict
from sage_dpo.storage import read_json, read_records


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


def start(recipe: Path, folder: Path, *arguments: str):
    return torchrun(2, "-m", "sage_dpo", "run", recipe, "--output", folder, *arguments)


@pytest.fixture(scope="module")
def one(recipe, tmp_path_factory) -> Path:
    return alone(recipe, tmp_path_factory.mktemp("one") / "run")


@pytest.fixture(scope="module")
def two(recipe, tmp_path_factory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("two") / "run"
    return folder, *finish(start(recipe, folder))


@pytest.fixture(scope="module")
def killed(recipe, tmp_path_factory) -> Path:
    """The folder of a run whose second process was killed after the first step, and which ended by that."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    launcher = start(recipe, folder)
    second = second_process(launcher, folder / IN_TRAINING)
    children = psutil.Process(launcher.pid).children(recursive=True)
    second.kill()
    launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    assert not psutil.wait_procs(children, timeout=60)[1]  # no process of the run is left
    return folder


IN_SAMPLING, IN_TRAINING = "first-pool/completions.partial-1.jsonl", "arms/sage/checkpoints/checkpoint-1/complete.json"
"""Files that are there when a run has got so far."""


def second_process(launcher: subprocess.Popen[str], file: Path) -> psutil.Process:
    """Return the second process of a run, as soon as a file is there."""
    deadline = time.monotonic() + 400
    while not file.exists():
        assert launcher.poll() is None, launcher.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    children = psutil.Process(launcher.pid).children(recursive=True)
    (second,) = [c for c in children if c.environ().get("RANK") == "1" and "sage_dpo" in c.cmdline()]
    return second


def test_two_processes_sample_grade_select_and_measure_what_one_does(one, two):
    folder = two[0]
    for pool in ("first-pool", "arms/sage/refresh-001"):
        for name, kind in (("completions", Completion), ("verdicts", Verdict), ("pairs", PreferencePair)):
            mine, theirs = (read_records(path / pool / f"{name}.parquet", kind) for path in (one, folder))
            assert mine == theirs
    assert selections(one) == selections(folder)
    assert counted(one) == counted(folder)
    assert losses(one) == pytest.approx(losses(folder), rel=1e-4)


def test_one_process_writes_and_speaks(one, two):
    folder, output, errors = two
    assert output.count("Accuracy in percent") == output.count("== arm sage") == 1
    assert errors.count("sampling: 100%") > 0
    others = {path.relative_to(one) for path in one.rglob("*") if "checkpoints" not in path.parts}
    assert {path.relative_to(folder) for path in folder.rglob("*") if "checkpoints" not in path.parts} == others
    assert read_json(folder / "manifest.json")["machine"]["processes"] == 2


def test_a_run_of_which_a_process_was_killed_goes_on_bit_for_bit(recipe, two, killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    finish(start(recipe, folder))
    assert losses(folder) == losses(two[0])
    assert selections(folder) == selections(two[0])
    mine, theirs = (load_file(path / "arms/sage/policy/model.safetensors") for path in (folder, two[0]))
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


def test_one_process_goes_on_where_two_were_if_that_is_accepted(recipe, one, killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"machine\.processes was 2, is absent"):
        alone(recipe, folder)
    alone(recipe, folder, accepted=["machine.processes"])
    assert selections(folder) == selections(one)
    assert counted(folder) == counted(one)


@pytest.mark.parametrize("so_far", [IN_SAMPLING, IN_TRAINING])
def test_a_process_that_hangs_is_named_and_ends_the_run_after_the_time_that_is_set(
    so_far, recipe, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    monkeypatch.setenv(TIMEOUT_VARIABLE, "30")
    launcher = start(recipe, folder)
    second = second_process(launcher, folder / so_far)
    second.suspend()
    lines = []
    for line in launcher.stderr:
        lines.append(line)
        if line.startswith("error: "):
            break
    second.resume()  # the launcher's SIGTERM reaches it
    lines += launcher.communicate(timeout=120)[1].splitlines()
    assert launcher.returncode != 0
    errors = [line for line in lines if "error: " in line and "sage" not in line]
    named = rf"process 1 \(pid {second.pid} on .+\)"
    assert len(errors) == 1, errors
    assert re.match(
        rf"error: {named} did not come within 30 s \({TIMEOUT_VARIABLE}\), where .*; if it hangs, ", errors[0]
    )
    assert any(re.match(rf"waiting for {named} since \d+ s: ", line) for line in lines)


def test_weights_that_fsdp2_spreads_are_gathered_to_be_sampled_from(recipe, one, tmp_path):
    folder, program = tmp_path / "run", ("-m", "tests.support.cpu_shards", "run", recipe, "--output", tmp_path / "run")
    finish(accelerate_launch(find_launcher("accelerate/fsdp2"), 2, *program))
    assert selections(folder) == selections(one)
    assert counted(folder) == counted(one)
    assert not list(folder.rglob("whole-policy"))


def test_processes_that_start_from_other_recipes_are_told_once_before_anything_is_written(recipe, tmp_path):
    command = 'exec "$0" -m sage_dpo run "$1" --output "$2" --set training.beta=0.$((RANK + 1))'
    launcher = torchrun(2, "--no-python", "bash", "-c", command, sys.executable, recipe, tmp_path / "run")
    _, errors = launcher.communicate(timeout=400)
    assert launcher.returncode != 0
    lines = [line for line in errors.splitlines() if "error: " in line and "sage" not in line]
    assert lines == [line for line in lines if line.startswith("error: what the run starts from differs between")]
    assert len(lines) == 1
    assert "recipe is" in lines[0]
    assert "on process 1" in lines[0]
    assert not (tmp_path / "run").exists()
