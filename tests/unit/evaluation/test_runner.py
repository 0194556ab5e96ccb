"""Accuracy, counts, files and reuse of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.tiny import make_tiny_model

from sage_dpo.config import RolloutSettings, ServerEngineSettings
from sage_dpo.errors import DataError
from sage_dpo.evaluation import BENCHMARKS, GradedCompletion, evaluate_policy, evaluate_suite
from sage_dpo.evaluation.runner import suite_sampling, weights_sha256
from sage_dpo.records import Completion, FinishReason, Problem, Verdict, VerdictKind
from sage_dpo.rollouts import RolloutPrompt, SamplingParams
from sage_dpo.storage import read_json, read_records
from sage_dpo.verification import VerificationRequest


class LastWordGrader:
    """Correct if the completion's last word is the gold answer; without a word there is no answer."""

    def __init__(self) -> None:
        self.graded = 0

    def verify(self, requests: Sequence[VerificationRequest], progress: bool = False) -> list[Verdict]:
        self.graded += len(requests)
        return [Verdict(r.problem_id, r.sample, self._kind(r), method="exact") for r in requests]

    def _kind(self, request: VerificationRequest) -> VerdictKind:
        words = request.completion.split()
        if not words:
            return VerdictKind.UNPARSEABLE
        if words[-1] in ("timeout", "error"):
            return VerdictKind(words[-1])
        return VerdictKind.CORRECT if words[-1] == request.gold else VerdictKind.WRONG


class ScriptedEngine:
    """Answers with given texts, one a sample."""

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self.texts = texts

    def sample(
        self, prompts: Sequence[RolloutPrompt], *, settings: SamplingParams, seed: int, policy_version: int = 0,
        progress: bool = False,
    ) -> list[Completion]:  # fmt: skip
        return [
            Completion(p.problem_id, i, text, p.prompt_ids, (7, 4), FinishReason.LENGTH if i else FinishReason.STOP)
            for p in prompts
            for i, text in enumerate(self.texts[p.problem_id])
        ]


PROBLEMS = [Problem("a", "1", "5"), Problem("b", "2", "6")]
SUITES = {"short": PROBLEMS, "long": [Problem(f"c{n}", f"{n} + 1", "7") for n in range(20)]}


def evaluate(model: Any, tokenizer: Any, grader: LastWordGrader, **arguments: Any) -> Any:
    defaults = {"verifier": grader, "rollouts": RolloutSettings(), "max_new_tokens": 6}
    return evaluate_policy(lambda: model, tokenizer, SUITES, **{**defaults, **arguments})


def test_accuracy_is_the_mean_over_problems_of_their_share_correct(tiny_tokenizer: Any) -> None:
    # a: 2 of 4 correct, b: 1 of 4 -> (1/2 + 1/4) / 2 = 3/8; every other verdict counts as not correct.
    engine = ScriptedEngine({"a": ["5", "5", "6", ""], "b": ["6", "timeout", "error", "5"]})
    result = evaluate_suite(
        engine, tiny_tokenizer, "x", PROBLEMS, sampling=SamplingParams(samples=4), verifier=LastWordGrader()
    )
    assert result.per_problem == (0.5, 0.25)
    assert result.accuracy == 0.375
    assert result.counts == {
        "correct": 3, "wrong": 2, "unparseable": 1, "timeout": 1, "error": 1, "truncated": 6, "generated_tokens": 16,
    }  # fmt: skip
    assert not result.is_partial


def test_missing_samples_are_an_error_not_a_zero(tiny_tokenizer: Any) -> None:
    engine = ScriptedEngine({"a": ["5"], "b": []})
    with pytest.raises(DataError, match="suite 'x': problem 'b' and 0 others have another number of verdicts"):
        evaluate_suite(engine, tiny_tokenizer, "x", PROBLEMS, sampling=SamplingParams(), verifier=LastWordGrader())


def test_average_weighs_suites_equally(tiny_model: Any, tiny_tokenizer: Any) -> None:
    result = evaluate(tiny_model, tiny_tokenizer, LastWordGrader())
    accuracies = [suite.accuracy for suite in result.suites.values()]
    assert result.average == sum(accuracies) / 2
    assert [len(suite.per_problem) for suite in result.suites.values()] == [2, 20]
    assert result.seconds == sum(suite.seconds for suite in result.suites.values()) > 0


def test_suites_are_sampled_by_their_record() -> None:
    assert suite_sampling("gsm8k", max_new_tokens=9) == SamplingParams(1, 0.0, 1.0, 0, 9)
    assert suite_sampling("a gym suite", max_new_tokens=9) == SamplingParams(1, 0.0, 1.0, 0, 9)
    assert suite_sampling("aime24", max_new_tokens=9) == SamplingParams(8, 0.6, 0.95, 0, 9)
    assert suite_sampling("aime24", max_new_tokens=9, samples=1) == SamplingParams(1, 0.0, 1.0, 0, 9)
    assert suite_sampling("gsm8k", max_new_tokens=9, samples=4) == SamplingParams(4, 0.6, 0.95, 0, 9)


def test_part_of_a_benchmark_is_marked_partial(tiny_model: Any, tiny_tokenizer: Any) -> None:
    arguments: dict[str, Any] = {
        "verifier": LastWordGrader(), "rollouts": RolloutSettings(), "max_new_tokens": 2, "samples": {"amc23": 2},
    }  # fmt: skip
    suites = {"amc23": PROBLEMS}
    result = evaluate_policy(lambda: tiny_model, tiny_tokenizer, suites, **arguments)
    assert result.is_partial
    assert len(result.suites["amc23"].completions) == 4
    whole = [replace(PROBLEMS[0], id=str(n)) for n in range(BENCHMARKS["amc23"].size)]
    assert not evaluate_policy(lambda: tiny_model, tiny_tokenizer, {"amc23": whole}, **arguments).is_partial


def test_files_hold_every_completion_and_the_summary(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    result = evaluate(tiny_model, tiny_tokenizer, LastWordGrader(), folder=tmp_path)
    suite = result.suites["long"]
    rows = read_records(tmp_path / "long.parquet", GradedCompletion)
    assert [(r.problem_id, r.text, r.token_ids) for r in rows] == [
        (c.problem_id, c.text, c.token_ids) for c in suite.completions
    ]
    assert [r.kind for r in rows] == [v.kind for v in suite.verdicts]
    assert {r.gold for r in rows} == {"7"}
    summary = read_json(tmp_path / "long.json")
    assert (summary["accuracy"], summary["counts"]) == (suite.accuracy, suite.counts)


def test_a_complete_suite_is_read_back(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    grader = LastWordGrader()
    first = evaluate(tiny_model, tiny_tokenizer, grader, folder=tmp_path)
    assert grader.graded == 22
    assert evaluate(tiny_model, tiny_tokenizer, grader, folder=tmp_path) == first
    assert grader.graded == 22
    (tmp_path / "short.json").unlink()  # as if interrupted before its end
    assert evaluate(tiny_model, tiny_tokenizer, grader, folder=tmp_path).average == first.average
    assert grader.graded == 24
    (tmp_path / "long.parquet").write_bytes(b"damaged")
    evaluate(tiny_model, tiny_tokenizer, grader, folder=tmp_path)
    assert grader.graded == 44


def test_other_weights_or_settings_are_evaluated_again(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    grader = LastWordGrader()
    evaluate(tiny_model, tiny_tokenizer, grader, folder=tmp_path)
    changed = make_tiny_model()
    with torch.no_grad():
        changed.model.norm.weight[3] += 1e-3
    evaluate(changed, tiny_tokenizer, grader, folder=tmp_path)
    evaluate(changed, tiny_tokenizer, grader, folder=tmp_path, max_new_tokens=7)
    evaluate(
        changed, tiny_tokenizer, grader, folder=tmp_path, max_new_tokens=7, rollouts=RolloutSettings(system_prompt="w1")
    )
    assert grader.graded == 4 * 22
    evaluate(
        changed, tiny_tokenizer, grader, folder=tmp_path, max_new_tokens=7, seed=5,
        rollouts=RolloutSettings(system_prompt="w1"),
    )  # fmt: skip
    assert grader.graded == 4 * 22  # greedy suites have no seed


def test_weights_hash_sees_every_value_and_dtype(tiny_model: Any) -> None:
    same, changed = make_tiny_model(), make_tiny_model()
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[-1, -1] += 1e-6
    hashes = [weights_sha256(model) for model in (tiny_model, same, changed, make_tiny_model().bfloat16())]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_served_engine_of_the_recipe_is_not_asked(tiny_model: Any, tiny_tokenizer: Any) -> None:
    """It may hold other weights than the policy under test."""
    rollouts = RolloutSettings(engine=ServerEngineSettings(kind="server", base_url="http://127.0.0.1:9", model="m"))
    expected = evaluate(tiny_model, tiny_tokenizer, LastWordGrader())
    served = evaluate(tiny_model, tiny_tokenizer, LastWordGrader(), rollouts=rollouts)
    assert [suite.completions for suite in served.suites.values()] == [
        suite.completions for suite in expected.suites.values()
    ]


def test_nothing_to_evaluate_is_an_error(tiny_model: Any, tiny_tokenizer: Any) -> None:
    arguments: dict[str, Any] = {"verifier": LastWordGrader(), "rollouts": RolloutSettings(), "max_new_tokens": 2}
    with pytest.raises(DataError, match="no suites"):
        evaluate_policy(lambda: tiny_model, tiny_tokenizer, {}, **arguments)
    with pytest.raises(DataError, match="suite 'x' has no problems"):
        evaluate_policy(lambda: tiny_model, tiny_tokenizer, {"x": []}, **arguments)
