"""From an arm's configuration to the trainer's arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage_dpo.config import RunConfig, validate
from sage_dpo.errors import ConfigError
from sage_dpo.pipeline.arms import trainer_arguments
from sage_dpo.training import SAGEConfig


def arguments(training: dict[str, Any], **sections: Any) -> SAGEConfig:
    values = {"name": "test", "problems": {"kind": "gym", "count": 8}, "training": training, **sections}
    return trainer_arguments(validate(RunConfig, values), Path("unused"), progress=False)


@pytest.mark.parametrize(
    ("pairs", "largest", "microbatch", "accumulation"),
    [
        (32, 32, 32, 1),
        (32, 8, 8, 4),
        (32, 20, 16, 2),  # the largest divisor of 32 that is at most 20
        (7, 4, 1, 7),  # a prime number of pairs
        (5, 64, 5, 1),
    ],
)
def test_the_pairs_of_a_step_are_cut_into_the_fewest_equal_microbatches(pairs, largest, microbatch, accumulation):
    args = arguments({"pairs_per_step": pairs, "microbatch_size": largest})
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (microbatch, accumulation)


def test_every_section_reaches_the_trainer():
    args = arguments(
        {"steps": 3, "beta": 0.3, "learning_rate": 2e-5, "save_steps": 0},
        seed=5, selection={"keep_ratio": 0.25, "selector": "sage"}, pool={"refresh_steps": 0},
    )  # fmt: skip
    assert (args.max_steps, args.beta, args.learning_rate, args.seed) == (3, 0.3, 2e-5, 5)
    assert (args.keep_ratio, args.selector, args.refresh_steps) == (0.25, "sage", 0)
    assert args.save_strategy == "no"


def test_further_arguments_of_the_trainer_are_passed_on():
    args = arguments({"trainer": {"weight_decay": 0.1, "save_total_limit": 1}})
    assert (args.weight_decay, args.save_total_limit) == (0.1, 1)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"wieght_decay": 0.1}, r"training.trainer has unknown keys \['wieght_decay'\]; they must be fields of"),
        (
            {"max_steps": 5, "seed": 1},
            r"training.trainer sets \['max_steps', 'seed'\], which have a place of their own",
        ),
    ],
)
def test_unknown_keys_and_keys_with_a_place_of_their_own_are_refused(trainer, message):
    with pytest.raises(ConfigError, match=message):
        arguments({"trainer": trainer})
