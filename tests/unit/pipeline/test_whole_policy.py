"""A policy whose weights are spread, on its way to where it is sampled from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sage_dpo.config import PolicySettings, RunConfig, validate
from sage_dpo.errors import ConfigError
from sage_dpo.pipeline import whole_policy
from sage_dpo.pipeline.whole_policy import WholePolicy, check_sampled
from sage_dpo.processes import ONE


class Trainer:
    """Saves its policy as a file of one word."""

    model = "spread"

    def __init__(self, is_fsdp_enabled: bool) -> None:
        self.is_fsdp_enabled = is_fsdp_enabled

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
    ("settings", "name"),
    [
        ({"pool": {"refresh_steps": 5}}, r"pool\.refresh_steps is 5"),
        ({"training": {"probe_steps": 2}, "probe": {"kind": "gym", "split": "probe"}}, r"training\.probe_steps is 2"),
        ({"evaluation": {"at_steps": [7]}}, r"evaluation\.at_steps is \[7\]"),
    ],
)
def test_zero_3_is_refused_where_the_policy_is_asked_while_it_trains(settings: dict[str, Any], name: str) -> None:
    config = validate(RunConfig, {"name": "r", "problems": {"kind": "gym"}, "pool": {"refresh_steps": 0}, **settings})
    arguments: Any = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3))
    with pytest.raises(ConfigError, match=f"{name}, which samples .* DeepSpeed ZeRO-3 .* accelerate/fsdp2"):
        check_sampled(config, arguments)
    for plugin in (None, SimpleNamespace(zero_stage=2)):
        check_sampled(config, SimpleNamespace(deepspeed_plugin=plugin))  # type: ignore[arg-type]
    plain = validate(RunConfig, {"name": "r", "problems": {"kind": "gym"}, "pool": {"refresh_steps": 0}})
    check_sampled(plain, arguments)
