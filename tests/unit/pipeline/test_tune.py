"""The learning rate grid; training itself is replaced by its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage_dpo.config import RunConfig, validate
from sage_dpo.errors import ConfigError
from sage_dpo.pipeline import tune as module
from sage_dpo.storage import write_jsonl

GYM = {"kind": "gym", "count": 8}
ARMS = {"sage": {}, "all": {"selection": {"selector": "all", "keep_ratio": 1.0}}, "untuned": {"train": False}}
ACCURACY = {"sage@1e-05": 0.4, "sage@0.0001": 0.6, "all@1e-05": 0.5, "all@0.0001": 0.3}


def recipe(**changes: Any) -> RunConfig:
    values = {"name": "test", "problems": GYM, "probe": {**GYM, "split": "probe"}, "training": {"steps": 4}}
    return validate(RunConfig, {**values, "arms": ARMS, **changes})


def test_every_trained_arm_is_run_at_every_rate_and_its_best_is_found(tmp_path, monkeypatch):
    asked: list[RunConfig] = []

    def run(config: RunConfig, *, output: Path | None, progress: bool) -> Path:
        asked.append(config)
        for name in config.arms:
            rows = [{"step": 0, "probe/accuracy": 0.1}, {"probe/accuracy": ACCURACY[name]}, {"train_loss": 1.0}]
            write_jsonl(tmp_path / "arms" / name / "metrics.jsonl", rows)
        return tmp_path

    monkeypatch.setattr(module, "run", run)
    result = module.tune(recipe(), [1e-5, 1e-4], progress=False)
    assert result["arms"]["sage"] == {"probe_accuracy": {"1e-05": 0.4, "0.0001": 0.6}, "best": 1e-4}
    assert result["arms"]["all"] == {"probe_accuracy": {"1e-05": 0.5, "0.0001": 0.3}, "best": 1e-5}
    (grid,) = asked
    assert set(grid.arms) == set(ACCURACY)
    assert grid.evaluation is None  # the suites are not looked at
    arm = grid.for_arm("all@0.0001")
    assert (arm.training.learning_rate, arm.training.probe_steps, arm.selection.selector) == (1e-4, 4, "all")


@pytest.mark.parametrize(
    ("changes", "rates", "message"),
    [
        ({"probe": None}, [1e-5], "tuning needs a `probe` section"),
        ({"arms": {"untuned": {"train": False}}}, [1e-5], "at least one trained arm and one learning rate"),
        ({}, [], "at least one trained arm and one learning rate"),
    ],
)
def test_what_cannot_be_tuned_is_refused(changes, rates, message, monkeypatch):
    monkeypatch.setattr(module, "run", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(ConfigError, match=message):
        module.tune(recipe(**changes), rates, progress=False)
