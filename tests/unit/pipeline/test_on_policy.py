"""Which problems a pool asks, and what a refresh leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.config import RunConfig, validate
from sage_dpo.errors import DataError, EmptyPoolError
from sage_dpo.pipeline.on_policy import OnPolicySource, problems_of_pool, read_info
from sage_dpo.records import Completion, FinishReason, Problem, Verdict, VerdictKind
from sage_dpo.rollouts.engine import RolloutPrompt
from sage_dpo.run_folder import PoolFolder
from sage_dpo.verification import VerificationRequest

PROBLEMS = [Problem(str(number), "?", "1") for number in range(5)]


def asked(count: int | None, version: int, of: int = 5) -> str:
    return "".join(problem.id for problem in problems_of_pool(PROBLEMS[:of], count, version))


def test_pools_take_turns() -> None:
    assert [asked(2, version, of=4) for version in (0, 1)] == ["01", "23"]


def test_after_the_last_problem_comes_the_first() -> None:
    assert [asked(2, version) for version in (2, 3, 4, 5)] == ["40", "12", "34", "01"]
    assert asked(4, 1) == "4012"


@pytest.mark.parametrize("count", [None, 5, 6])
def test_every_pool_asks_all_where_no_fewer_are_wanted(count: int | None) -> None:
    assert [asked(count, version) for version in (0, 1, 7)] == ["01234"] * 3


def test_no_pool_asks_a_problem_twice() -> None:
    for count in range(1, 6):
        assert all(len(set(asked(count, version))) == count for version in range(12))


class Engine:
    """Every prompt gets the answers 1 and 2."""

    def sample(self, prompts: Sequence[RolloutPrompt], **_: Any) -> list[Completion]:
        return [
            Completion(
                prompt.problem_id, sample, str(sample + 1), prompt.prompt_ids, (5 + sample, 4), FinishReason.STOP
            )
            for prompt in prompts
            for sample in range(2)
        ]


class Grader:
    """The text decides."""

    def verify(self, requests: Sequence[VerificationRequest], **_: Any) -> list[Verdict]:
        return [
            Verdict(r.problem_id, r.sample, VerdictKind.CORRECT if r.completion == r.gold else VerdictKind.WRONG)
            for r in requests
        ]


@pytest.fixture
def source(tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a source for problems with these answers, whose pools are kept in `tmp_path`."""
    monkeypatch.setattr("sage_dpo.rollouts.build.build_engine", lambda *_, **__: Engine())

    def make(*answers: str) -> OnPolicySource:
        config = validate(RunConfig, {"name": "r", "problems": {"kind": "gym"}})
        problems = [Problem(str(number), "1", answer) for number, answer in enumerate(answers)]
        folder = lambda version: PoolFolder(tmp_path / str(version))  # noqa: E731
        return OnPolicySource(config, problems, tiny_tokenizer, Grader(), folder, progress=False)  # type: ignore[arg-type]

    return make


def test_a_refresh_is_restored_as_it_was_made(source: Any, tmp_path: Path) -> None:
    made = source("1", "2").refresh(None, version=3, step=7)
    journal = PoolFolder(tmp_path / "3").journal(1)
    assert not journal.exists()
    journal.write_text("left by a process that ended before it was deleted")
    restored = source("1", "2").restore(version=3)
    assert made.pairs.to_dict() == restored.pairs.to_dict()
    assert made.success_rates.tolist() == restored.success_rates.tolist() == [0.5, 0.5]
    info = read_info(PoolFolder(tmp_path / "3"))
    assert (info.step, info.generated_tokens, info.competence, info.exclusions) == (7, 8, 0.5, {})
    assert not journal.exists()


def test_a_refresh_that_makes_no_pair_records_what_it_cost_and_why(source: Any, tmp_path: Path) -> None:
    with pytest.raises(EmptyPoolError) as caught:
        source("3", "4").refresh(None, version=1, step=2)
    info = read_info(PoolFolder(tmp_path / "1"))
    assert info.exclusions == caught.value.exclusions == {"problem without a correct completion": 2}
    assert (info.generated_tokens, info.verdicts["wrong"]) == (8, 4)


@pytest.mark.parametrize("text", ["{}", "[]", '{"version": 1, "of": "another kind"}'])
def test_a_refreshs_record_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    folder = PoolFolder(tmp_path)
    folder.info.write_text(text)
    with pytest.raises(DataError, match=r"info\.json is not what a refresh writes .*; restore it"):
        read_info(folder)
