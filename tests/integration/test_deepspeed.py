"""ZeRO-2 and ZeRO-3 on two CPU processes choose and train as DistributedDataParallel and one process do.

DeepSpeed compiles an extension (communication over shared memory) at its first use on a CPU: a C++ compiler is needed,
and one to two minutes more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.utils import is_deepspeed_available
from tests.support.launch import accelerate_launch, finish, torchrun
from tests.support.small_run import alone, counted, losses, selections, write_recipe
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer

from sage_dpo.config import find_launcher
from sage_dpo.storage import write_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_deepspeed_available(), reason="DeepSpeed is not installed"),
]

OPTIONS = {
    "gate": -0.5,  # leaves fewer pairs open than a step asks for
    "columns": {"success_rate": 0.5},  # the reference is run as pairs are kept
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "score_token_budget": 128,  # processes need unequal numbers of forward passes
}


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


@pytest.fixture(scope="module")
def configuration(tmp_path_factory) -> Callable[[int], Path]:
    """Return accelerate's configuration of a stage: ours, but so that ZeRO-3 spreads small weights, too."""

    def find(stage: int) -> Path:
        if stage == 2:
            return find_launcher("accelerate/zero2")
        folder = tmp_path_factory.mktemp("zero3")
        names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
        partition = {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,  # by default weights below 100,000 numbers stay whole
            "stage3_gather_16bit_weights_on_model_save": True,
        }
        automatic = dict.fromkeys((*names, "gradient_clipping"), "auto")
        write_json(folder / "deepspeed.json", {**automatic, "zero_optimization": partition})
        values = yaml.safe_load(find_launcher("accelerate/zero3").read_text())
        del values["mixed_precision"]  # accelerate takes it beside a file of DeepSpeed's from the file alone
        values["deepspeed_config"] = {
            "deepspeed_config_file": str(folder / "deepspeed.json"),
            "zero3_init_flag": values["deepspeed_config"]["zero3_init_flag"],
        }
        (folder / "zero3.yaml").write_text(yaml.safe_dump(values))
        return folder / "zero3.yaml"

    return find


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"), seed=0)


def save_policy(folder: Path, seed: int) -> Path:
    make_tiny_model(seed).save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return folder


def train(launcher: Callable[..., Any], policy: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Train on two processes and return what the first saved."""
    folder.mkdir(exist_ok=True)
    program = ("-m", "tests.support.distributed_worker", policy, folder, json.dumps({**OPTIONS, **options}))
    finish(launcher(2, *program))
    return torch.load(folder / "result.pt", weights_only=False)


@pytest.fixture(scope="module")
def plain(policy, tmp_path_factory) -> Callable[..., dict[str, Any]]:
    """Return what two processes do that hold all the weights."""
    return lambda **options: train(torchrun, policy, tmp_path_factory.mktemp("plain"), **options)


@pytest.mark.parametrize("stage", [2, 3])
def test_processes_keep_and_learn_as_under_ddp_and_resume_bit_for_bit(stage, configuration, policy, plain, tmp_path):
    extra = {"sync_ref_model": True, "ref_model_sync_steps": 2} if stage == 2 else {}
    file = configuration(stage)
    launcher = lambda *arguments: accelerate_launch(file, *arguments)  # noqa: E731
    expected = plain(**extra)
    whole = train(launcher, policy, tmp_path / "run", is_sharded=True, **extra)
    assert whole["kinds"] == ({"NOT_AVAILABLE"} if stage == 3 else {"Parameter"})
    assert whole["kept"] == expected["kept"]
    assert whole["counts"] == expected["counts"]
    assert whole["counts"]["reference"] > 0
    np.testing.assert_allclose(whole["losses"], expected["losses"], rtol=1e-5)
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    resume = str(tmp_path / "run" / "checkpoint-3")
    resumed = train(launcher, policy, tmp_path / "run", is_sharded=True, resume=resume, **extra)
    assert resumed["losses"] == whole["losses"]
    assert resumed["kept"] == whole["kept"]
    assert all(torch.equal(resumed["weights"][name], tensor) for name, tensor in whole["weights"].items())
    if stage == 3:
        other = save_policy(tmp_path / "other", seed=1)
        shutil.rmtree(tmp_path / "run" / "checkpoint-6")
        program = ("-m", "tests.support.distributed_worker", other, tmp_path / "run")
        refused = launcher(2, *program, json.dumps({**OPTIONS, "is_sharded": True, "resume": resume}))
        _, errors = refused.communicate(timeout=400)
        assert refused.returncode != 0
        assert "the checkpoint holds log-probabilities of reference" in errors


@pytest.mark.parametrize("stage", [2, 3])
def test_adapters_learn_as_under_ddp(stage, configuration, policy, plain, tmp_path):
    extra = {"lora": True, "learning_rate": 0.02, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    extra |= {"gate": -4}  # some microbatches are empty
    file = configuration(stage)
    adapted = train(lambda *arguments: accelerate_launch(file, *arguments), policy, tmp_path, is_sharded=True, **extra)
    expected = plain(**extra)
    assert adapted["kept"] == expected["kept"]
    np.testing.assert_allclose(adapted["losses"], expected["losses"], rtol=1e-5)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def one(recipe, tmp_path_factory) -> Path:
    return alone(recipe, tmp_path_factory.mktemp("one") / "run")


@pytest.mark.parametrize("stage", [2, 3])
def test_a_whole_run_samples_selects_and_measures_what_one_process_does(stage, configuration, recipe, one, tmp_path):
    folder = tmp_path / "run"
    program = ("-m", "tests.support.cpu_shards", "run", recipe, "--output", folder)
    finish(accelerate_launch(configuration(stage), 2, *program))
    assert selections(folder) == selections(one)
    assert counted(folder) == counted(one)
    assert losses(folder) == pytest.approx(losses(one), rel=1e-4)
    assert not list(folder.rglob("whole-policy"))
