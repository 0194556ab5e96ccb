"""Splits and suites of the everyday questions: deterministic, disjoint, without repeats, of their sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sage_dpo.errors import ConfigError, SuiteSizeError
from sage_dpo.everyday import suites
from sage_dpo.everyday.question import TRAINED_LEVELS, Level
from sage_dpo.everyday.suites import HARDER, SUITES, load_suite
from sage_dpo.everyday.world import FAMILIES, SPLITS, generate_problems
from sage_dpo.problems import normalize_statement
from sage_dpo.records import Completion, FinishReason, Problem
from sage_dpo.verification import Verifier, requests_for

SMALL, LARGE = "sums", "smallest"  # by the number of their easy questions


def statements(problems: list[Problem]) -> list[str]:
    return [normalize_statement(problem.problem) for problem in problems]


def answered(problem: Problem, sample: int, answer: str) -> Completion:
    return Completion(problem.id, sample, f"The answer is {answer}.", (1,), (1,), FinishReason.STOP)


def test_a_smaller_count_is_the_beginning_of_a_larger() -> None:
    many = generate_problems("train", 300, seed=5)
    assert generate_problems("train", 100, seed=5) == many[:100]
    assert generate_problems("train", 300, seed=6) != many


def test_families_and_trained_levels_come_in_turn() -> None:
    problems = generate_problems("probe", 2 * len(FAMILIES), seed=0)
    assert [p.metadata["family"] for p in problems] == 2 * list(FAMILIES)
    assert [p.metadata["level"] for p in problems] == [level for level in TRAINED_LEVELS for _ in FAMILIES]


def test_splits_share_no_question_and_repeat_none() -> None:
    parts = {(split, seed): generate_problems(split, 400, seed=seed) for split in ("train", "probe") for seed in (0, 1)}
    tested = [problem for name in SUITES for problem in load_suite(name)]
    for problems in (*parts.values(), tested):
        assert len(set(statements(problems))) == len({problem.id for problem in problems}) == len(problems)
    train, probe = (
        {text for seed in (0, 1) for text in statements(parts[split, seed])} for split in ("train", "probe")
    )
    assert not train & probe
    assert not (train | probe) & set(statements(tested))


def test_the_order_of_a_list_does_not_move_it_to_another_split() -> None:
    held = {split: set[str]() for split in SPLITS}
    for split in SPLITS:
        for problem in generate_problems(split, 200, seed=1, families=[LARGE]):
            held[split].add(" ".join(sorted(problem.problem.split(": ")[1].rstrip("?").split(", "))))
    assert all(len(lists) == 200 for lists in held.values())
    assert not held["train"] & held["probe"]
    assert not (held["train"] | held["probe"]) & held["test"]


def test_a_family_that_is_spent_drops_out_and_all_of_them_raise() -> None:
    problems = generate_problems("train", 400, seed=0, families=[SMALL, LARGE], levels=[Level.EASY])
    counts = {name: sum(p.metadata["family"] == name for p in problems) for name in (SMALL, LARGE)}
    assert counts[SMALL] < 150 < 250 < counts[LARGE]
    with pytest.raises(ConfigError, match=r"there are \d+ everyday questions of this kind, not 400; ask for fewer"):
        generate_problems("train", 400, seed=0, families=[SMALL], levels=[Level.EASY])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "sft"}, "unknown split 'sft' of everyday questions, expected one of start, train, probe, test"),
        ({"count": -1}, "count is -1, expected a non-negative integer"),
        ({"families": ["moods"]}, r"unknown families \['moods'\] of everyday questions, expected some of"),
    ],
)
def test_what_is_not_there_is_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate_problems(**{"split": "train", "count": 1, "seed": 0, **arguments})  # type: ignore[arg-type]


def test_suites_have_their_sizes_and_the_harder_one_a_level_of_its_own() -> None:
    assert sum(suite.expected_size for suite in SUITES.values()) >= 1000
    for name, suite in SUITES.items():
        problems = load_suite(name)
        assert len(problems) == suite.expected_size
        assert {p.metadata["family"] for p in problems} == set(suite.families)
        assert {p.metadata["level"] for p in problems} == {level.value for level in suite.levels}
    assert SUITES[HARDER].levels == (Level.HARD,)
    assert Level.HARD not in TRAINED_LEVELS


def test_a_suite_of_another_size_or_name_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suites.SUITES, HARDER, replace(SUITES[HARDER], expected_size=7))
    monkeypatch.setattr(suites, "_problems", lambda name: ())
    with pytest.raises(
        SuiteSizeError, match="suite 'harder' of everyday questions has 0 problems, its record states 7"
    ):
        load_suite(HARDER)
    with pytest.raises(ConfigError, match="unknown suite 'gsm8k' of everyday questions, expected one of"):
        load_suite("gsm8k")


def test_the_verifier_reads_the_answers_and_tells_others_from_them() -> None:
    problems = generate_problems("train", 3 * len(FAMILIES), seed=0)
    others = [other.answer for other in problems[1:] + problems[:1]]
    completions = [answered(problem, 0, problem.answer) for problem in problems]
    completions += [answered(problem, 1, other) for problem, other in zip(problems, others, strict=True)]
    with Verifier(workers=1) as verifier:
        verdicts = verifier.verify(requests_for(problems, completions))
    assert all(verdict.is_correct for verdict in verdicts[: len(problems)])
    for problem, other, verdict in zip(problems, others, verdicts[len(problems) :], strict=True):
        assert verdict.is_correct == (other == problem.answer)
