"""Who samples what, where there are several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.config import RolloutSettings, ServerEngineSettings
from sage_dpo.pipeline import sampling
from sage_dpo.pipeline.sampling import sample_shared
from sage_dpo.processes import Processes
from sage_dpo.records import Completion, FinishReason, Problem

PROBLEMS = [Problem(name, "1 + 1?", "2") for name in "abc"]


def completion(problem: str) -> Completion:
    return Completion(problem, 0, "2", (1,), (2,), FinishReason.STOP)


class Two(Processes):
    """One of two processes; the other has sampled what is left, in 9 seconds."""

    def __init__(self, index: int) -> None:
        super().__init__(2, index)

    def share_of(self, items: Sequence[Any]) -> list[Any]:
        return list(items[:2] if self.is_main else items[2:])

    def gathered(self, items: Sequence[Any], what: str = "") -> list[Any]:
        if isinstance(items[0], float):
            return [items[0], 9.0]
        mine = [item.problem_id for item in items]
        rest = [completion(problem.id) for problem in PROBLEMS if problem.id not in mine]
        return [*items, *rest] if self.is_main else [*rest, *items]

    def on_main(self, work: Callable[[], Any], what: str = "") -> Any:
        return work() if self.is_main else ([completion(problem.id) for problem in PROBLEMS], 5.0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, Path | None]]:
    """What this process asked: problems, whether it showed progress, where it kept completions."""
    calls: list[tuple[str, bool, Path | None]] = []

    def sample(problems: Sequence[Problem], settings: Any, *, progress: bool, journal: Path | None, **_: Any) -> Any:
        calls.append(("".join(problem.id for problem in problems), progress, journal))
        return [completion(problem.id) for problem in problems], 5.0

    monkeypatch.setattr(sampling, "sample_rollouts", sample)
    return calls


@pytest.mark.parametrize(
    ("index", "served", "calls"),
    [
        (0, False, [("ab", True, Path("part-0"))]),
        (1, False, [("c", False, Path("part-1"))]),
        (0, True, [("abc", True, Path("part-0"))]),
        (1, True, []),  # the server has one client, and is handed one policy
    ],
)
def test_each_process_asks_its_share_and_the_main_one_asks_a_server(index, served, calls, asked) -> None:
    engine = {"engine": ServerEngineSettings(kind="server", base_url="http://localhost:1/v1")} if served else {}
    completions, seconds = sample_shared(
        Two(index), PROBLEMS, RolloutSettings(**engine), journal=lambda n: Path(f"part-{n}"), progress=True
    )
    assert [found.problem_id for found in completions] == ["a", "b", "c"]
    assert seconds == (5.0 if served else 9.0)
    assert asked == calls
