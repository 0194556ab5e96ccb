"""What an arm has cost, from the trainer's counts and the refreshes on disk. A stand-in takes the trainer's place."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sage_dpo.config import RunConfig, validate
from sage_dpo.core.flops import policy_flops
from sage_dpo.costs import Costs
from sage_dpo.pipeline.clock import CLOCK, Clock
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


class Policy(torch.nn.Linear):
    """Six numbers that can be saved."""

    def save_pretrained(self, folder: Path) -> None:
        write_json(folder / "policy.json", {})


class StandIn:
    """What the clock asks of a trainer."""

    def __init__(self, source: object) -> None:
        self.model = Policy(2, 2)
        self.token_counts = COUNTS
        self.stream = SimpleNamespace(source=source, attempted_refreshes=2)
        self.args = SimpleNamespace(max_steps=4)
        self.stop_reason: str | None = None
        self.logged: dict[str, float] = {}
        self.log_metric, self.log = self.logged.__setitem__, self.logged.update

    def save_model(self, folder: str) -> None:
        self.model.save_pretrained(Path(folder))

    def stop(self, reason: str) -> None:
        self.stop_reason = reason


def make_clock(
    arm: ArmFolder,
    checkpoint: Path | None = None,
    *,
    source: object = object(),
    accuracies: Sequence[float] = (0.75,) * 9,
    **settings: Any,
) -> Clock:
    """A clock whose probes find these accuracies."""
    trainer: Any = StandIn(source)
    values = {"name": "r", "problems": {"kind": "gym"}, "probe": {"kind": "gym", "split": "probe"}, **settings}
    found = iter(accuracies)
    return Clock(trainer, validate(RunConfig, values), arm, lambda _: next(found), lambda *_: None, checkpoint)


def state(step: int) -> Any:
    return SimpleNamespace(global_step=step, max_steps=4)


def after(clock: Clock, *steps: int) -> Clock:
    for step in steps:
        if clock._trainer.stop_reason is None:
            clock.on_step_end(None, state(step), None)
    return clock


def test_costs_are_the_trainers_counts_and_those_of_all_attempted_refreshes(arm: ArmFolder) -> None:
    costs = make_clock(arm).costs()
    assert (costs.train_tokens, costs.scored_tokens, costs.reference_tokens) == (100, 200, 50)
    assert (costs.generated_tokens, costs.candidate_pairs, costs.kept_pairs) == (42, 64, 32)
    assert costs.flops == policy_flops(sampled=42 + 20, scored=200, reference=50, trained=100, parameters=PARAMETERS)
    assert costs.wall_breakdown["refresh"] == 8.0
    assert costs.wall_s == costs.wall_breakdown["refresh"] + costs.wall_breakdown["training"]


def test_weights_that_zero_3_holds_in_parts_are_counted_whole(arm: ArmFolder) -> None:
    trainer: Any = StandIn(object())
    for parameter in trainer.model.parameters():
        parameter.ds_numel, parameter.data = parameter.numel(), torch.empty(0)
    config = validate(RunConfig, {"name": "r", "problems": {"kind": "gym"}})
    assert Clock(trainer, config, arm, None, None, None).parameters == PARAMETERS


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
    logged = clock._trainer.logged  # type: ignore[attr-defined]
    assert logged == {}
    clock.on_step_end(None, state(3), None)
    assert (logged["probe/accuracy"], logged["cost/flops"]) == (0.75, clock.costs().flops)


def test_training_stops_after_probes_without_a_better_one(arm: ArmFolder) -> None:
    settings = {"training": {"probe_steps": 1, "patience": 2}, "evaluation": {"at_steps": [3]}}
    clock = after(make_clock(arm, accuracies=[0.5, 0.5, 0.4], **settings), 1, 2, 3)
    assert clock._trainer.stop_reason == "no better probe accuracy since step 1 (2 probes)"
    assert arm.milestones() == {}  # step 3 has become the last: its suites are run at the end


def test_training_that_goes_to_its_last_step_has_no_reason_to_stop(arm: ArmFolder) -> None:
    clock = make_clock(arm, accuracies=[0.5, 0.6, 0.4, 0.4], training={"probe_steps": 1, "patience": 2})
    assert after(clock, 1, 2, 3, 4)._trainer.stop_reason is None
    assert clock.best.found is not None
    assert clock.best.found["step"] == 2


def test_training_that_ends_by_itself_is_probed_then(arm: ArmFolder) -> None:
    clock = after(make_clock(arm, accuracies=[0.5, 0.6], training={"probe_steps": 2}), 1, 2, 3)
    clock.on_train_end(None, state(3), None)
    assert clock._trainer.logged["probe/accuracy"] == 0.6  # type: ignore[attr-defined]
    assert clock.best.found is not None
    assert clock.best.found["step"] == 3


def test_training_probed_at_its_end_is_not_probed_again(arm: ArmFolder) -> None:
    clock = after(make_clock(arm, accuracies=[0.5, 0.6], training={"probe_steps": 2}), 1, 2, 3, 4)
    clock.on_train_end(None, state(4), None)  # a third probe would find no accuracy


def test_a_policy_is_kept_where_the_suites_will_be_run_on_it(arm: ArmFolder) -> None:
    for at_best in (False, True):
        settings = {"training": {"probe_steps": 1}, "evaluation": {"at_best": at_best}}
        after(make_clock(arm, accuracies=[0.5, 0.6, 0.4, 0.7], **settings), 1, 2, 3, 4)
        assert list(arm.best_policies()) == ([2] if at_best else [])  # that of the last step is kept anyway


def checkpoint(clock: Clock, arm: ArmFolder, step: int) -> Path:
    clock.on_save(SimpleNamespace(output_dir=arm.checkpoints), state(step), None)
    return arm.checkpoints / f"checkpoint-{step}"


def test_a_resumed_arm_has_the_best_of_its_checkpoint_whatever_came_after_it(arm: ArmFolder) -> None:
    settings = {"training": {"probe_steps": 1}, "evaluation": {"at_best": True}}
    first = after(make_clock(arm, accuracies=[0.5, 0.6, 0.9], **settings), 1)
    saved = checkpoint(first, arm, 1)
    after(first, 2, 3)
    assert list(arm.best_policies()) == [1, 3]  # the checkpoint's best may still be needed
    resumed = make_clock(arm, saved, accuracies=[0.4, 0.9, 0.3], **settings)
    assert resumed.best.state_dict() == read_json(saved / CLOCK)["best"]
    after(resumed, 2)
    assert resumed.best.found is not None
    assert (resumed.best.found["step"], resumed.best.found["probe_accuracy"]) == (1, 0.5)
    checkpoint(after(resumed, 3, 4), arm, 4)
    assert list(arm.best_policies()) == [1, 3]  # checkpoint 1 is still there to go on from
    shutil.rmtree(saved)
    checkpoint(resumed, arm, 5)
    assert list(arm.best_policies()) == [3]


def test_training_resumed_where_it_had_stopped_takes_no_further_step(arm: ArmFolder) -> None:
    settings = {"training": {"probe_steps": 1, "patience": 1}}
    saved = checkpoint(after(make_clock(arm, accuracies=[0.5, 0.4], **settings), 1, 2), arm, 2)
    trainer = make_clock(arm, saved, **settings)._trainer
    assert (trainer.args.max_steps, trainer.stop_reason) == (2, "no better probe accuracy since step 1 (1 probe)")
