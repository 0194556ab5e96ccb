"""Two processes choose and train as one does."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.launch import accelerate_launch, finish, torchrun
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer

from sage_dpo.config import find_launcher

GATE = -0.5  # leaves fewer pairs open than a step asks for


def launch(processes: int, policy: Path, folder: Path, **options) -> dict:
    """Run the worker and return what rank 0 saved."""
    program = ("-m", "tests.support.distributed_worker", policy, folder, json.dumps(options))
    is_sharded = options.get("is_sharded", False)
    launcher = partial(accelerate_launch, find_launcher("accelerate/fsdp2")) if is_sharded else torchrun
    finish(launcher(processes, *program))
    return torch.load(folder / "result.pt", weights_only=False)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    make_tiny_model().save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def two(policy, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("two")
    return folder, launch(2, policy, folder, per_device_train_batch_size=4, gate=GATE)


def test_two_processes_keep_the_pairs_that_one_keeps(policy, tmp_path, two):
    one = launch(1, policy, tmp_path, per_device_train_batch_size=8, gate=GATE)
    kept = [[[pair for at, pair in done["kept"] if at == step] for step in (0, 1)] for done in (one, two[1])]
    for alone, shared in zip(*kept, strict=True):  # before the trained pairs differ
        assert shared == alone
    assert one["counts"]["candidate_pairs"] == two[1]["counts"]["candidate_pairs"] == 96
    assert 0 < two[1]["counts"]["trained_pairs"] < 48  # the gate shuts some
    assert any(len(pairs) % 2 for pairs in kept[0])  # an odd number is shared out, too
    np.testing.assert_allclose(one["losses"][:2], two[1]["losses"][:2], rtol=1e-4)  # losses, and gradients' norms


def test_two_processes_resume_bit_for_bit(policy, two):
    folder, whole = two
    shutil.rmtree(folder / "checkpoint-6")
    resumed = launch(2, policy, folder, per_device_train_batch_size=4, gate=GATE, resume=str(folder / "checkpoint-3"))
    assert resumed["losses"] == whole["losses"]
    assert resumed["kept"] == whole["kept"]
    assert all(torch.equal(resumed["weights"][name], tensor) for name, tensor in whole["weights"].items())


def test_processes_among_which_fsdp2_spreads_the_weights_train_and_resume_as_those_that_hold_them_all(
    policy, tmp_path, two
):
    options = {"per_device_train_batch_size": 4, "gate": GATE, "is_sharded": True}
    whole = launch(2, policy, tmp_path, **options)
    assert whole["kinds"] == {"DTensor"}
    assert whole["kept"] == two[1]["kept"]
    np.testing.assert_allclose(whole["losses"], two[1]["losses"], rtol=1e-5)
    shutil.rmtree(tmp_path / "checkpoint-6")
    resumed = launch(2, policy, tmp_path, resume=str(tmp_path / "checkpoint-3"), **options)
    assert resumed["losses"] == whole["losses"]
    assert all(torch.equal(resumed["weights"][name], tensor) for name, tensor in whole["weights"].items())
