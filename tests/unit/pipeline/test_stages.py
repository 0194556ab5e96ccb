"""Single stages from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.completions_server import CompletionsServer

from sage_dpo.config import OnPolicyPairSettings, PolicySettings, RolloutSettings, ServerEngineSettings
from sage_dpo.errors import DataError
from sage_dpo.pipeline.policies import load_tokenizer
from sage_dpo.pipeline.stages import check_problems, combine_completions, sample_completions
from sage_dpo.records import Completion, FinishReason, Verdict, VerdictKind
from sage_dpo.storage import write_jsonl, write_records

ROWS = [
    {"id": "a", "problem": "1 + 1?", "answer": "2", "solution": "1 + 1 = 2 ."},
    {"id": "b", "problem": "1 + 1 ?", "answer": "2"},
    {"id": "c", "problem": "3 + 3?", "answer": ""},
]
SAMPLES = [("2 .", VerdictKind.CORRECT), ("3 .", VerdictKind.WRONG), ("4 .", VerdictKind.TIMEOUT)]


def write_files(folder: Path, kinds: list[VerdictKind]) -> tuple[Path, Path, Path]:
    paths = folder / "p.jsonl", folder / "c.parquet", folder / "v.parquet"
    write_jsonl(paths[0], ROWS[:1])
    completions = [
        Completion("a", n, text, (6, 7), (10 + n, 4), FinishReason.STOP) for n, (text, _) in enumerate(SAMPLES)
    ]
    write_records(paths[1], completions[: len(kinds)], Completion)
    write_records(paths[2], [Verdict("a", n, kind) for n, kind in enumerate(kinds)], Verdict)
    return paths


def combine(folder: Path, kinds: list[VerdictKind], **settings: bool) -> list[tuple[int, int, float | None]]:
    problems, completions, verdicts = write_files(folder, kinds)
    build = combine_completions(
        problems, completions, verdicts, PolicySettings(path="gym:S"), OnPolicyPairSettings(**settings),
        fields={}, max_length=None, seed=0,
    )  # fmt: skip
    return [(pair.chosen_sample, pair.rejected_sample, pair.success_rate) for pair in build.pairs]


def test_problems_are_counted_and_compared_only_with_benchmarks_that_are_given(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", ROWS)
    problems, result = check_problems(tmp_path / "p.jsonl", fields={}, benchmarks=None)
    assert [problem.id for problem in problems] == ["a"]
    assert result == {"problems": 1, "excluded": {"empty_answer": 1, "duplicate": 1}, "overlap": []}


def test_correct_and_wrong_completions_are_combined_and_unknown_ones_left_out(tmp_path: Path) -> None:
    assert combine(tmp_path, [kind for _, kind in SAMPLES]) == [(0, 1, 0.5)]


def test_a_reference_solution_serves_where_nothing_is_correct(tmp_path: Path) -> None:
    assert combine(tmp_path, [VerdictKind.WRONG], use_reference_solution=True) == [(-1, 0, 0.0)]


def test_verdicts_of_other_completions_are_refused(tmp_path: Path) -> None:
    problems, completions, verdicts = write_files(tmp_path, [VerdictKind.CORRECT, VerdictKind.WRONG])
    write_records(verdicts, [Verdict("a", 0, VerdictKind.CORRECT)], Verdict)
    with pytest.raises(DataError, match="has no verdict; verify the same completions that are paired"):
        combine_completions(
            problems, completions, verdicts, PolicySettings(path="gym:S"), OnPolicyPairSettings(),
            fields={}, max_length=None, seed=0,
        )  # fmt: skip


def test_a_server_samples_without_a_model_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_model(_: object) -> None:
        raise AssertionError("the policy was loaded")

    monkeypatch.setattr("sage_dpo.pipeline.stages.load_model", load_model)
    write_jsonl(tmp_path / "p.jsonl", ROWS[:1])
    policy = PolicySettings(path="gym:S")
    with CompletionsServer(load_tokenizer(policy), first_id=8).serve() as server:
        rollouts = RolloutSettings(engine=ServerEngineSettings(kind="server", base_url=server.url), samples=3)
        completions = sample_completions(tmp_path / "p.jsonl", policy, rollouts, fields={}, seed=0, progress=False)
    assert [(completion.problem_id, completion.sample) for completion in completions] == [("a", 0), ("a", 1), ("a", 2)]


def test_a_problem_that_the_server_leaves_out_has_no_completions(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"id": "long", "problem": "1 + " * 50, "answer": "1"}, ROWS[0]])
    policy = PolicySettings(path="gym:S")
    with CompletionsServer(load_tokenizer(policy), first_id=8, context=60).serve() as server:
        engine = ServerEngineSettings(kind="server", base_url=server.url)
        rollouts = RolloutSettings(engine=engine, samples=1, max_new_tokens=8)
        completions = sample_completions(tmp_path / "p.jsonl", policy, rollouts, fields={}, seed=0, progress=False)
    assert [completion.problem_id for completion in completions] == ["a"]
