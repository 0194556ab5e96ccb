"""What the trainer refuses before it starts: one row a reason."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from trl import DPOConfig

from sage_dpo.errors import SageError
from sage_dpo.training.checks import check_arguments
from sage_dpo.training.config import SAGEConfig

ROW = {"prompt": "1", "chosen": "2", "rejected": "3"}
DATA = Dataset.from_list([ROW])
SOURCE: Any = object()  # only its presence is looked at


def config(**changes: Any) -> SAGEConfig:
    return SAGEConfig(output_dir="unused", use_cpu=True, bf16=False, report_to=[], **changes)


@pytest.mark.parametrize(
    ("args", "data", "source", "message"),
    [
        (DPOConfig(output_dir="unused", use_cpu=True, bf16=False), DATA, None, "args is a DPOConfig, expected a SAGE"),
        (config(), DATA.to_iterable_dataset(), None, "train_dataset is IterableDataset, expected a map-style"),
        (config(), None, None, "train_dataset is NoneType"),
        (config(), DATA.add_column("image", [1]), None, "train_dataset has images"),
        (config(), DATA.select([]), None, "train_dataset has no rows"),
        (config(schedule_by="competence"), DATA, None, "add a success_rate column, or set schedule_by to progress"),
        (config(precompute_ref_log_probs=True), DATA, SOURCE, "set precompute_ref_log_probs to False"),
    ],
)
def test_refusals_name_the_argument_and_the_remedy(args: Any, data: Any, source: Any, message: str) -> None:
    with pytest.raises(SageError, match=message):
        check_arguments(args, data, source)


def test_what_can_be_trained_passes() -> None:
    check_arguments(config(), DATA, None)
    check_arguments(config(), DATA, SOURCE)
    check_arguments(config(schedule_by="competence"), DATA.add_column("success_rate", [0.5]), None)
    check_arguments(config(schedule_by="competence"), DATA, SOURCE)  # a source knows its rates
