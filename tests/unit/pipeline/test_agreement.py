"""What the processes of `rollouts` and `evaluate` must have alike before they share the work."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.standing import Standing

from sage_dpo.config import RolloutSettings
from sage_dpo.errors import ProcessError
from sage_dpo.pipeline.inputs import agree_on_work
from sage_dpo.processes import Processes
from sage_dpo.records import Problem

WORK: dict[str, Any] = {
    "problems": {"few": [Problem("a", "1 + 1?", "2")]},
    "policy": {"model.safetensors": "1"},
    "rollouts": RolloutSettings(samples=2),
    "seed": 0,
}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"problems": {"few": [Problem("a", "1 + 1?", "3")]}}, r"problems\.few is "),
        ({"policy": {"model.safetensors": "2"}}, r"policy\.model\.safetensors is 2 on process 1, expected 1"),
        ({"rollouts": RolloutSettings(samples=4)}, r"rollouts\.samples is 4 on process 1, expected 2"),
        ({"seed": 1}, r"seed is 1 on process 1, expected 0"),
    ],
)
def test_a_process_that_works_on_something_else_is_named(other: dict[str, Any], told: str) -> None:
    agree_on_work(Standing(gathered_by(WORK)), **WORK)
    with pytest.raises(ProcessError, match=f"what is worked on differs between processes: {told}.*give all machines"):
        agree_on_work(Standing(gathered_by({**WORK, **other})), **WORK)


def gathered_by(work: dict[str, Any]) -> dict[str, Any]:
    """What a process that works on this tells the others."""
    told: list[dict[str, Any]] = []

    class Telling(Processes):
        def gathered(self, items: Any, what: str = "") -> Any:
            told.extend(items)
            return items

    agree_on_work(Telling(), **work)
    return told[0]
