"""Completions are kept as they come; an attempt takes over what earlier ones have left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.config import RolloutSettings
from sage_dpo.errors import RolloutError
from sage_dpo.records import Completion, FinishReason, Problem
from sage_dpo.rollouts import RolloutPrompt, build
from sage_dpo.rollouts.journal import CompletionJournal

KEY = {"seed": 1, "sampling": {"temperature": 1.0}}


def completions(problem: str, text: str = "a\u2028\ud800b") -> list[Completion]:
    return [Completion(problem, n, text, (1, 2), (3, n), FinishReason.LENGTH, 4) for n in range(2)]


def kept(path: Path, key: dict[str, Any] = KEY) -> dict[str, list[Completion]]:
    with CompletionJournal(path, key) as journal:
        return journal.kept


def test_what_was_kept_is_taken_over_with_its_seconds(tmp_path: Path) -> None:
    path = tmp_path / "pool" / "c.jsonl"
    for problem in ("p", "q"):
        with CompletionJournal(path, KEY) as journal:
            journal.add(completions(problem))
            before = journal.seconds
        with CompletionJournal(path, KEY) as journal:
            assert 0.0 < journal.seconds < before + 60.0
    assert kept(path) == {"p": completions("p"), "q": completions("q")}


@pytest.mark.parametrize("lost", [1, 5, 60])
def test_half_a_line_is_cut_off_and_sampled_again(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "c.jsonl"
    with CompletionJournal(path, KEY) as journal:
        for problem in ("p", "q"):
            journal.add(completions(problem))
    path.write_bytes(path.read_bytes()[:-lost])
    assert list(kept(path)) == ["p"]
    with CompletionJournal(path, KEY) as journal:
        journal.add(completions("r"))
    assert list(kept(path)) == ["p", "r"]


def test_damage_in_the_middle_ends_what_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with CompletionJournal(path, KEY) as journal:
        for problem in ("p", "q", "r"):
            journal.add(completions(problem))
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in (
        b"{}\n",
        b"[1]\n",
        b'{"completions": [{"x": 1}], "seconds": 1}\n',
        b'{"completions": []}\n',
        b"\x00\n",
    ):
        path.write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]))
        assert list(kept(path)) == ["p"]


@pytest.mark.parametrize("other", [{"seed": 2, "sampling": {"temperature": 1.0}}, {}])
def test_the_journal_of_another_job_is_begun_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    path = tmp_path / "c.jsonl"
    with CompletionJournal(path, KEY) as journal:
        journal.add(completions("p"))
    assert kept(path, other) == {}
    assert kept(path) == {}


def test_without_a_path_nothing_is_kept() -> None:
    with CompletionJournal(None, KEY) as journal:
        journal.add(completions("p"))
    assert journal.kept == {}


class DyingEngine:
    """Answers, and dies at the prompt number `dies_at` of a call."""

    def __init__(self) -> None:
        self.dies_at: int | None = 3
        self.asked: list[str] = []

    def sample(self, prompts: Sequence[RolloutPrompt], *, keep: Any, **_: Any) -> list[Completion]:
        done: list[Completion] = []
        for number, prompt in enumerate(prompts):
            if number == self.dies_at:
                raise RolloutError("gone")
            self.asked.append(prompt.problem_id)
            keep(completions(prompt.problem_id, "x"))
            done += completions(prompt.problem_id, "x")
        return done


def test_an_engine_that_dies_has_lost_the_requests_under_way_only(
    tmp_path: Path, monkeypatch: Any, tiny_tokenizer: Any
) -> None:
    engine = DyingEngine()
    monkeypatch.setattr(build, "build_engine", lambda *_, **__: engine)
    problems = [Problem(f"p{n}", f"{n}", "1") for n in range(5)]

    def sample(policy: str = "w") -> list[Completion]:
        return build.sample_rollouts(
            problems, RolloutSettings(samples=2), model=None, tokenizer=tiny_tokenizer, seed=0,
            journal=tmp_path / "c.jsonl", policy=policy,
        )[0]  # fmt: skip

    with pytest.raises(RolloutError):
        sample()
    engine.dies_at = None
    assert [c.problem_id for c in sample()] == [f"p{n}" for n in range(5) for _ in range(2)]
    assert engine.asked == ["p0", "p1", "p2", "p3", "p4"]
    sample()
    assert len(engine.asked) == 5  # all of it was kept
    sample("other weights")
    assert len(engine.asked) == 10
