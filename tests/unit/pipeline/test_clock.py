"""What an arm has cost, from the trainer's counts and the refreshes on disk. A stand-in takes the trainer's place."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sage_dpo.config import RunConfig, validate
from sage_dpo.core.flops import policy_flops
from sage_dpo.costs import Costs
from sage_dpo.pipeline.arms import _Clock
from sage_dpo.pipeline.on_policy import RefreshInfo
from sage_dpo.run_folder import ArmFolder, RunFolder
from sage_dpo.selection.scoring import TokenCounts
from sage_dpo.storage import read_json, write_json

PARAMETERS = 6
COUNTS = TokenCounts(scored=200, reference=50, trained=100, candidate_pairs=64, trained_pairs=32)


@pytest.fixture
def arm(tmp_path: Path) -> ArmFolder:
    """An arm with one refresh that made pairs and one that made none."""
    arm = RunFolder(tmp_path).arm("sage")
    for version, tokens in ((1, 30), (2, 12)):
        info = RefreshInfo(version, version, 4.0, tokens, 0.5, {}, {}, prompt_tokens=10)
        write_json(arm.refresh(version).info, asdict(info))
    return arm


def make_clock(arm: ArmFolder, checkpoint: Path | None = None, *, source: object = object(), **settings: Any) -> _Clock:
    logged: dict[str, float] = {}
    trainer: Any = SimpleNamespace(
        model=torch.nn.Linear(2, 2),
        token_counts=COUNTS,
        stream=SimpleNamespace(source=source, attempted_refreshes=2),
        log_metric=logged.__setitem__,
        logged=logged,
    )
    probe = {"probe": {"kind": "gym", "split": "probe", "count": 8}}
    values = {"name": "r", "problems": {"kind": "gym"}, **probe, **settings}
    return _Clock(trainer, validate(RunConfig, values), arm, lambda _: 0.75, lambda *_: None, checkpoint)


def state(step: int) -> Any:
    return SimpleNamespace(global_step=step, max_steps=4)


def test_costs_are_the_trainers_counts_and_those_of_all_attempted_refreshes(arm: ArmFolder) -> None:
    costs = make_clock(arm).costs()
    assert (costs.train_tokens, costs.scored_tokens, costs.reference_tokens) == (100, 200, 50)
    assert (costs.generated_tokens, costs.candidate_pairs, costs.kept_pairs) == (42, 64, 32)
    assert costs.flops == policy_flops(sampled=42 + 20, scored=200, reference=50, trained=100, parameters=PARAMETERS)
    assert costs.wall_breakdown["refresh"] == 8.0
    assert costs.wall_s == costs.wall_breakdown["refresh"] + costs.wall_breakdown["training"]


def test_a_fixed_pool_costs_no_refresh(arm: ArmFolder) -> None:
    costs = make_clock(arm, source=None).costs()
    assert (costs.generated_tokens, costs.wall_breakdown["refresh"]) == (0, 0.0)


def test_a_resumed_arm_goes_on_from_the_clock_of_its_checkpoint(arm: ArmFolder) -> None:
    write_json(arm.checkpoints / "clock.json", {"total": 1000.0, "probing": 100.0})
    costs = make_clock(arm, arm.checkpoints).costs()
    assert costs.wall_breakdown["probe"] == 100.0
    assert costs.wall_s == pytest.approx(900.0, abs=5.0)


def test_suites_on_the_way_are_written_with_the_costs_until_then(arm: ArmFolder) -> None:
    clock = make_clock(arm, evaluation={"at_steps": [2, 4]})
    for step in (1, 2, 3, 4):
        clock.on_step_end(None, state(step), None)
    assert list(arm.milestones()) == [2]  # step 4 is the last: its suites are run at the end
    assert Costs.from_dict(read_json(arm.milestone(2).costs)).kept_pairs == 32


def test_probes_are_logged_with_the_costs_until_then(arm: ArmFolder) -> None:
    clock = make_clock(arm, training={"probe_steps": 3})
    clock.on_step_end(None, state(2), None)
    assert clock._trainer.logged == {}
    clock.on_step_end(None, state(3), None)
    assert clock._trainer.logged["probe/accuracy"] == 0.75
    assert clock._trainer.logged["cost/flops"] == clock.costs().flops
