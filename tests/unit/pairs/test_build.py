"""Correct x wrong completions become pairs; everything else is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dpo.config import OnPolicyPairSettings
from sage_dpo.errors import DataError, EmptyPoolError
from sage_dpo.pairs import PairBuild, build_pairs
from sage_dpo.pairs.build import flip
from sage_dpo.records import Completion, FinishReason, Problem, Verdict, VerdictKind

EOS = 9
KINDS = {
    "c": VerdictKind.CORRECT,
    "w": VerdictKind.WRONG,
    "u": VerdictKind.UNPARSEABLE,
    "t": VerdictKind.TIMEOUT,
    "e": VerdictKind.ERROR,
}


def graded(problem_id: str, kinds: str, *, prompt: tuple[int, ...] = (1, 2)) -> tuple[list[Completion], list[Verdict]]:
    """One completion a letter, all different: sample i is `(10 + i, EOS)`; an upper-case letter was truncated."""
    completions = [
        Completion(problem_id, i, f"t{i}", prompt, (10 + i,) if kind.isupper() else (10 + i, EOS),
                   FinishReason.LENGTH if kind.isupper() else FinishReason.STOP)
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    return completions, [Verdict(problem_id, i, KINDS[kind.lower()]) for i, kind in enumerate(kinds)]


def build(rows: dict[str, str], *, bound: int = 100, edit: Any = None, **arguments: Any) -> PairBuild:
    problems = [Problem(name, f"text of {name}", "1", solution="s") for name in rows]
    completions, verdicts = [], []
    for name, kinds in rows.items():
        some, judged = graded(name, kinds)
        completions += some
        verdicts += judged
    if edit:
        completions = [edit(completion) for completion in completions]
    settings = OnPolicyPairSettings(max_pairs_per_problem=bound, **arguments.pop("settings", {}))
    defaults = {"seed": 0, "policy_version": 0, "max_length": None, "eos_token_id": EOS}
    return build_pairs(problems, completions, verdicts, settings=settings, **{**defaults, **arguments})


def test_every_correct_meets_every_wrong() -> None:
    result = build({"a": "ccwww"}, policy_version=2)
    assert {(p.chosen_sample, p.rejected_sample) for p in result.pairs} == {(i, j) for i in (0, 1) for j in (2, 3, 4)}
    assert result.counts == {}
    pair = next(p for p in result.pairs if (p.chosen_sample, p.rejected_sample) == (1, 3))
    assert (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) == ((1, 2), (11, EOS), (13, EOS))
    assert (pair.prompt, pair.chosen, pair.rejected) == ("text of a", "t1", "t3")
    assert (pair.problem_id, pair.policy_version, pair.success_rate) == ("a", 2, 2 / 5)
    assert len({p.id for p in result.pairs}) == 6


def test_unknown_verdicts_leave_the_success_rate() -> None:
    result = build({"a": "cwwte"})
    assert {pair.success_rate for pair in result.pairs} == {1 / 3}  # 1 correct of 3 known
    assert {pair.rejected_sample for pair in result.pairs} == {1, 2}
    assert result.counts == {"verdict unknown (timeout or error)": 2}


def test_unparseable_answers_may_be_rejected() -> None:
    result = build({"a": "cu"})
    assert [(pair.rejected_sample, pair.success_rate) for pair in result.pairs] == [(1, 0.5)]


def test_truncated_completions_are_rejected_only_on_request() -> None:
    # Samples: 0 correct, 1 correct but cut, 2 wrong, 3 wrong and cut.
    result = build({"a": "cCwW"})
    assert [(p.chosen_sample, p.rejected_sample) for p in result.pairs] == [(0, 2)]
    assert result.counts == {"completion cut at max_new_tokens": 2}
    assert result.pairs[0].success_rate == 0.5
    kept = build({"a": "cCwW"}, settings={"keep_truncated_rejected": True})
    assert {(p.chosen_sample, p.rejected_sample) for p in kept.pairs} == {(0, 2), (0, 3)}
    assert next(p for p in kept.pairs if p.rejected_sample == 3).rejected_ids == (13,)


def test_problems_without_both_sides_are_counted() -> None:
    result = build({"pair": "cw", "easy": "cc", "hard": "ww", "unknown": "te", "unasked": "", "cut": "cW"})
    assert {pair.problem_id for pair in result.pairs} == {"pair"}
    assert result.counts == {
        "completion cut at max_new_tokens": 1,
        "problem with every completion correct": 1,
        "problem with no usable completion on one side": 1,
        "problem without a correct completion": 1,
        "problem without a known verdict": 1,
        "problem without completions": 1,
        "verdict unknown (timeout or error)": 2,
    }
    assert result.totals == {
        "problems": 6, "completions": 10, "correct": 4, "wrong": 4, "unparseable": 0, "timeout": 1, "error": 1,
        "pairs": 1, "pairs with a reference solution": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("text", "ids"), [("", (EOS,)), (" \n", (7, EOS)), ("x", (EOS,))])
def test_empty_completions_are_excluded(text: str, ids: tuple[int, ...]) -> None:
    result = build({"a": "cww"}, edit=lambda c: replace(c, text=text, token_ids=ids) if c.sample == 2 else c)
    assert [pair.rejected_sample for pair in result.pairs] == [1]
    assert result.counts == {"empty completion": 1}
    assert result.pairs[0].success_rate == 1 / 3


def test_equal_completions_are_used_once() -> None:
    result = build({"a": "cccwww"}, edit=lambda c: replace(c, token_ids=(50 + c.sample // 3, EOS)))
    assert len(result.pairs) == 1
    assert result.counts == {"duplicate completion": 4}


def test_the_same_tokens_are_not_both_chosen_and_rejected() -> None:
    result = build({"a": "cww"}, edit=lambda c: replace(c, token_ids=(50, EOS)) if c.sample < 2 else c)
    assert [(p.chosen_sample, p.rejected_sample) for p in result.pairs] == [(0, 2)]
    assert result.counts == {"chosen equals rejected": 1}


def test_over_long_completions_are_excluded_never_cut() -> None:
    long = {1: (11, 12, 13, EOS)}  # prompt 2 + 4 = 6 > 5
    edit = lambda c: replace(c, token_ids=long.get(c.sample, c.token_ids))  # noqa: E731
    result = build({"a": "cwcw"}, edit=edit, max_length=5)
    assert {(p.chosen_sample, p.rejected_sample) for p in result.pairs} == {(0, 3), (2, 3)}
    assert result.counts == {"longer than max_length": 1}
    assert len(build({"a": "cwcw"}, edit=edit, max_length=6).pairs) == 4


@given(correct=st.integers(1, 7), wrong=st.integers(1, 7), bound=st.integers(1, 50), seed=st.integers(0, 5))
def test_bounded_choice_is_distinct_and_even(correct: int, wrong: int, bound: int, seed: int) -> None:
    """No combination twice, and on each side the most and the least used completion differ by at most one."""
    result = build({"a": "c" * correct + "w" * wrong}, bound=bound, seed=seed)
    combinations = [(pair.chosen_sample, pair.rejected_sample) for pair in result.pairs]
    assert len(set(combinations)) == len(combinations) == min(bound, correct * wrong)
    for side, size in ((0, correct), (1, wrong)):
        uses = Counter(combination[side] for combination in combinations)
        counts = [*uses.values(), *[0] * (size - len(uses))]
        assert max(counts) - min(counts) <= 1
    assert result.counts.get("beyond max_pairs_per_problem", 0) == correct * wrong - len(combinations)


def test_choice_depends_on_seed_version_and_problem_alone() -> None:
    rows = {"a": "ccccwwww", "b": "ccccwwww"}
    first = build(rows, bound=3)
    assert build(rows, bound=3).pairs == first.pairs
    alone = build({"b": rows["b"]}, bound=3)
    assert alone.pairs == [pair for pair in first.pairs if pair.problem_id == "b"]
    others = [build(rows, bound=3, seed=1), build(rows, bound=3, policy_version=1)]
    combinations = [{(p.problem_id, p.chosen_sample, p.rejected_sample) for p in x.pairs} for x in (first, *others)]
    assert combinations[0] != combinations[1] != combinations[2] != combinations[0]


def test_reference_solution_serves_where_no_sample_is_correct() -> None:
    def reference(problem: Problem) -> tuple[int, ...]:
        return {"hard": (40, 41), "empty": (EOS,)}[problem.id]

    rows = {"hard": "ww", "empty": "ww", "fine": "cw"}
    result = build(rows, settings={"use_reference_solution": True}, reference=reference)
    hard = [pair for pair in result.pairs if pair.problem_id == "hard"]
    assert {pair.rejected_sample for pair in hard} == {0, 1}
    assert {(p.chosen_ids, p.chosen_sample, p.chosen, p.success_rate) for p in hard} == {((40, 41, EOS), -1, "s", 0.0)}
    assert result.totals["pairs with a reference solution"] == 2
    assert result.counts["problem without a correct completion"] == 2
    assert result.counts["problem without a usable reference solution"] == 1
    assert {pair.problem_id for pair in build(rows, reference=reference).pairs} == {"fine"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"a": "ww", "b": "wu"},
            "no correct completion at all: 0 of 4 completions of 2 problems .*raise rollouts.samp",
        ),
        ({"a": "cc"}, "every completion is correct: 2 of 2 completions of 1 problems .*use harder problems"),
        ({"a": "cW"}, r"no pair could be built: 1 correct of 2 .*completion cut at max_new_tokens: 1"),
        ({"a": ""}, "there are no completions"),
    ],
)
def test_no_pair_at_all_is_an_error_that_says_why(rows: dict[str, str], message: str) -> None:
    with pytest.raises(EmptyPoolError, match=message):
        build(rows)


def flipped(clean: PairBuild, noisy: PairBuild) -> list[str]:
    """Ids of the pairs that are swapped in `noisy`; all others must be equal."""
    assert [pair.id for pair in noisy.pairs] == [pair.id for pair in clean.pairs]
    changed = [(a, b) for a, b in zip(clean.pairs, noisy.pairs, strict=True) if a != b]
    assert all(b == flip(a) for a, b in changed)
    return [a.id for a, _ in changed]


def noisy(rows: dict[str, str], fraction: float, **arguments: Any) -> PairBuild:
    return build(rows, settings={"flip_fraction": fraction}, **arguments)


def test_a_flipped_pair_has_everything_swapped_and_its_provenance_kept() -> None:
    (clean,), (pair,) = build({"a": "cww"}, bound=1).pairs, noisy({"a": "cww"}, 1.0, bound=1).pairs
    assert (pair.chosen_ids, pair.rejected_ids) == (clean.rejected_ids, clean.chosen_ids)
    assert (pair.chosen, pair.rejected) == (clean.rejected, clean.chosen)
    assert (pair.chosen_sample, pair.rejected_sample) == (clean.rejected_sample, clean.chosen_sample)
    for name in ("id", "problem_id", "prompt_ids", "prompt", "success_rate", "policy_version"):
        assert getattr(pair, name) == getattr(clean, name)


def test_a_pair_flipped_twice_is_itself() -> None:
    (pair,) = build({"a": "cw"}).pairs
    assert flip(flip(pair)) == pair != flip(pair)


def test_about_the_requested_fraction_is_flipped() -> None:
    rows = {str(i): "ccccwwww" for i in range(250)}  # 4000 pairs: standard error of 0.2 is 0.0063
    assert len(flipped(build(rows), noisy(rows, 0.2))) / 4000 == pytest.approx(0.2, abs=0.02)


def test_flip_fraction_of_zero_and_one() -> None:
    rows = {"a": "cccwww", "b": "cw"}
    assert flipped(build(rows), noisy(rows, 0.0)) == []
    assert len(flipped(build(rows), noisy(rows, 1.0))) == 10


def test_flips_are_a_function_of_seed_version_and_pair_alone() -> None:
    rows = {"a": "ccccwwww", "b": "ccccwwww"}
    both = noisy(rows, 0.5).pairs
    assert noisy(rows, 0.5).pairs == both
    assert noisy({"b": rows["b"]}, 0.5).pairs == [pair for pair in both if pair.problem_id == "b"]
    hits = [
        {name.split("/")[2] for name in flipped(build(rows, **where), noisy(rows, 0.5, **where))}
        for where in ({}, {"seed": 1}, {"policy_version": 1})
    ]
    assert hits[0] != hits[1] != hits[2] != hits[0]


def test_a_larger_fraction_flips_the_same_pairs_and_more() -> None:
    rows = {str(i): "ccww" for i in range(20)}
    few, many = (set(flipped(build(rows), noisy(rows, fraction))) for fraction in (0.1, 0.4))
    assert few < many


def test_totals_and_exclusions_do_not_know_of_flips() -> None:
    rows = {"a": "ccw", "b": "ww"}
    clean, other = build(rows), noisy(rows, 1.0)
    assert (clean.counts, clean.totals) == (other.counts, other.totals)


def test_inconsistent_records_are_refused() -> None:
    problems = [Problem("a", "x", "1")]
    completions, verdicts = graded("a", "cw")
    arguments: dict[str, Any] = {
        "settings": OnPolicyPairSettings(), "seed": 0, "policy_version": 0, "max_length": None, "eos_token_id": EOS,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"\('a', 1\) has no verdict"):
        build_pairs(problems, completions, verdicts[:1], **arguments)
    with pytest.raises(DataError, match="more than once"):
        build_pairs(problems, [*completions, completions[0]], verdicts, **arguments)
    with pytest.raises(DataError, match="a problem that was not given"):
        build_pairs([Problem("b", "x", "1")], completions, verdicts, **arguments)
    with pytest.raises(DataError, match="problem ids occur more than once"):
        build_pairs(problems * 2, completions, verdicts, **arguments)
    other_prompt = [completions[0], replace(completions[1], prompt_ids=(3,))]
    with pytest.raises(DataError, match="samples 0 and 1 answer different prompts"):
        build_pairs(problems, other_prompt, verdicts, **arguments)
