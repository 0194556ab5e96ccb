"""A policy whose weights are spread, on its way to where it is sampled from."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sage_dpo.config import PolicySettings, RunConfig, validate
from sage_dpo.errors import ConfigError
from sage_dpo.pipeline import whole_policy
from sage_dpo.pipeline.whole_policy import WholePolicy, check_saved
from sage_dpo.processes import ONE


class Trainer:
    """Saves its policy as a file of one word."""

    model = "spread"

    def __init__(self, is_sharded: bool) -> None:
        self.is_sharded = is_sharded

    def save_model(self, folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "policy").write_text("whole")


@pytest.mark.parametrize(("is_spread", "asked"), [(False, "spread"), (True, "whole")])
def test_spread_weights_are_written_loaded_and_deleted_before_they_are_asked(
    is_spread: bool, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_policy, "load_trained", lambda _, folder: (folder / "policy").read_text())
    trainer: Any = Trainer(is_spread)
    policy = WholePolicy(trainer, PolicySettings(), tmp_path / "policy", ONE)
    seen = policy.given(lambda model, *, step: (model, step, (tmp_path / "policy").exists()))("ignored", step=3)
    assert seen == (asked, 3, False)


@pytest.mark.parametrize(
    ("stage", "saves_whole", "lora", "is_refused"),
    [(3, False, None, True), (3, True, None, False), (3, False, {"r": 2}, False), (2, False, None, False)],
)
def test_zero_3_that_would_save_parts_is_refused(
    stage: int, saves_whole: bool, lora: dict[str, int] | None, is_refused: bool
) -> None:
    config = validate(RunConfig, {"name": "r", "problems": {"kind": "gym"}, "policy": {"path": "gym:S", "lora": lora}})
    plugin = SimpleNamespace(zero_stage=stage, zero3_save_16bit_model=saves_whole)
    expected = pytest.raises(ConfigError, match=r"without zero3_save_16bit_model .* in parts .* accelerate/zero3")
    with expected if is_refused else contextlib.nullcontext():
        check_saved(config, SimpleNamespace(deepspeed_plugin=plugin))  # type: ignore[arg-type]


def test_a_trainer_without_deepspeed_is_not_refused() -> None:
    config = validate(RunConfig, {"name": "r", "problems": {"kind": "gym"}})
    check_saved(config, SimpleNamespace(deepspeed_plugin=None))  # type: ignore[arg-type]
