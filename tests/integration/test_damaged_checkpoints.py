"""Training goes on from the newest checkpoint that is whole, and gives what an undisturbed run gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer
from tests.support.training import losses, make_arguments, make_preferences

from sage_dpo import SAGETrainer
from sage_dpo.errors import RunFolderError


def make_trainer(policy: Path, folder: Path, **changes: Any) -> SAGETrainer:
    arguments = make_arguments(folder, save_steps=1, **changes)
    return SAGETrainer(
        str(policy), args=arguments, train_dataset=make_preferences(), processing_class=make_tiny_tokenizer()
    )


@pytest.fixture(scope="module")
def policy(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    make_tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(policy: Path, tmp_path_factory: Any) -> tuple[Path, SAGETrainer]:
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(policy, folder, max_steps=4)
    trainer.train()
    return folder, trainer


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("optimizer.pt", truncate),
        ("optimizer.pt", Path.unlink),
        ("sage_reference.npz", truncate),
        ("model.safetensors", truncate),
        ("complete.json", Path.unlink),
    ],
)
def test_the_older_one_is_taken_and_the_end_is_the_same(
    whole: tuple[Path, SAGETrainer], policy: Path, name: str, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    shutil.rmtree(folder / "checkpoint-4")
    harm(folder / "checkpoint-3" / name)
    with pytest.raises(RunFolderError, match=name):
        make_trainer(policy, folder, max_steps=4).train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    resumed = make_trainer(policy, folder, max_steps=4)
    result = resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole[1])
    assert resumed.state.log_history[-1]["train_loss"] == whole[1].state.log_history[-1]["train_loss"]
    assert result.training_loss == result.metrics["train_loss"] == resumed.state.log_history[-1]["train_loss"]
    for mine, other in zip(resumed.model.parameters(), whole[1].model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_one_checkpoint_at_a_time_is_enough(policy: Path, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tmp_path, max_steps=3, save_total_limit=1)
    trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert trainer.args.save_total_limit == 1


def test_training_goes_on_with_what_it_was_begun_with(
    whole: tuple[Path, SAGETrainer], policy: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(folder / "checkpoint-4")
    with pytest.raises(RunFolderError, match=r"args.learning_rate was 0.001, is 0.002; .*accept_changes='args.learn"):
        make_trainer(policy, folder, max_steps=4, learning_rate=2e-3).train(resume_from_checkpoint=True)
    other = SAGETrainer(
        str(policy), args=make_arguments(folder, save_steps=1, max_steps=4), train_dataset=make_preferences(seed=9),
        processing_class=make_tiny_tokenizer(),
    )  # fmt: skip
    with pytest.raises(RunFolderError, match=r"data\.sha256 was"):
        other.train(resume_from_checkpoint=True)
    accepted = make_trainer(
        policy, folder, max_steps=4, learning_rate=2e-3, logging_steps=2, accept_changes=["args.learning_rate"]
    )
    accepted.train(resume_from_checkpoint=True)
    assert accepted.state.global_step == 4
