"""The world and its suites: determinism, disjoint splits, verified solutions, sizes."""

from __future__ import annotations

import json
import random
import time

import pytest

from sage_dpo.errors import ConfigError, DataError, SuiteSizeError
from sage_dpo.gym import suites
from sage_dpo.gym.arithmetic import Distractor, Operation, Step, Story
from sage_dpo.gym.language import tell, vocabulary
from sage_dpo.gym.misconceptions import NAMES, diagnose
from sage_dpo.gym.suites import SUITES, load_suite, suites_of
from sage_dpo.gym.world import SPLITS, SUITE_NAMES, TRACKS, generate_problems, story_of
from sage_dpo.records import Problem


def test_problem_i_does_not_depend_on_what_else_is_generated() -> None:
    many = generate_problems("train", 30, seed=5)
    assert generate_problems("train", 10, seed=5) == many[:10]
    assert generate_problems("train", 7, seed=5, start=23) == many[23:]
    assert generate_problems("train", 30, seed=6) != many


@pytest.mark.slow
def test_splits_share_neither_stories_nor_texts() -> None:
    texts: dict[str, str] = {}
    digests: dict[int, str] = {}
    splits = ("sft", "train", "probe")
    problems = [p for track in TRACKS for split in splits for p in generate_problems(split, 1500, seed=0, track=track)]
    problems += [p for track in TRACKS for name in SUITES[track] for p in load_suite(name, track)]
    for problem in problems:
        split = problem.metadata["split"]
        assert texts.setdefault(problem.problem, split) == split
        assert digests.setdefault(story_of(problem).digest(), split) == split


@pytest.mark.parametrize("track", TRACKS)
def test_solutions_are_right_and_states_stay_in_range(track: str) -> None:
    for problem in generate_problems("sft", 500, seed=1, track=track):
        story = story_of(problem)
        assert problem.solution is not None
        assert diagnose(story, problem.solution) is None
        assert problem.answer == str(story.answer)
        assert all(state in TRACKS[track].states for state in story.states())
        state = story.start
        for step in story.steps:  # ordinary arithmetic, without the clamping of `apply`
            state = eval(f"{state} {step.operation.symbol} {step.operand}")
            assert state == int(state)
        assert int(state) == story.answer


def test_statement_tells_the_story_in_order() -> None:
    story = Story(12, (Step(Operation.ADD, 7), Step(Operation.MULTIPLY, 3)), (Distractor(1, 4, True),))
    words = tell(story, random.Random(0)).split()
    assert [word for word in words if word.isdigit()] == ["12", "7", "4", "3"]
    assert words[-1] == "?"


def test_every_word_is_in_the_vocabulary() -> None:
    known = set(vocabulary())
    assert len(known) == len(vocabulary()) < 250
    for problem in generate_problems("train", 500, seed=2):
        assert set(f"{problem.problem} {problem.solution}".split()) <= known


def test_metadata_survives_json_and_names_contexts() -> None:
    problem = generate_problems("train", 1, seed=3)[0]
    again = Problem(problem.id, problem.problem, problem.answer, metadata=json.loads(json.dumps(problem.metadata)))
    assert story_of(again) == story_of(problem)
    assert len(problem.metadata["contexts"]) == problem.metadata["steps"]
    assert {name for names in problem.metadata["contexts"] for name in names} <= set(NAMES)


def test_foreign_problem_has_no_story() -> None:
    with pytest.raises(DataError, match="no gym story"):
        story_of(Problem("aime-1", "What is 1 + 1?", "2"))


def test_unknown_split_and_negative_count_are_rejected() -> None:
    with pytest.raises(ConfigError, match="unknown gym split 'test'"):
        generate_problems("test", 1, seed=0)
    with pytest.raises(ConfigError, match="non-negative"):
        generate_problems("train", -1, seed=0)
    with pytest.raises(ConfigError, match="unknown gym track 'soft', expected one of standard, hard"):
        generate_problems("train", 1, seed=0, track="soft")


def test_the_hard_track_has_larger_numbers_longer_chains_and_ids_of_its_own() -> None:
    easy, hard = (generate_problems("train", 300, seed=0, track=track) for track in TRACKS)
    assert max(max(story_of(p).states()) for p in easy) < 50 < max(max(story_of(p).states()) for p in hard)
    assert max(p.metadata["steps"] for p in easy) < max(p.metadata["steps"] for p in hard)
    assert not {p.id for p in easy} & {p.id for p in hard}


def test_two_thousand_problems_take_about_a_second() -> None:
    start = time.process_time()
    generate_problems("train", 2000, seed=4)
    assert time.process_time() - start < 3.0  # measured 0.5 s; slack for slow machines


@pytest.mark.parametrize("track", TRACKS)
def test_every_suite_has_its_size_and_no_repeats(track: str) -> None:
    assert tuple(suites_of(track)) == SUITE_NAMES == SPLITS[3:]
    for name, suite in suites_of(track).items():
        problems = load_suite(name, track)
        assert len(problems) == suite.expected_size
        assert len({p.problem for p in problems}) == len({p.id for p in problems}) == len(problems)
        assert {p.metadata["steps"] for p in problems} <= set(suite.shape.steps)


@pytest.mark.parametrize("track", TRACKS)
def test_single_misconception_suites_offer_that_one_and_no_other(track: str) -> None:
    for name in ("products", "carries", "borrows"):
        for problem in load_suite(name, track):
            offered = {context for contexts in problem.metadata["contexts"] for context in contexts}
            assert offered
            assert offered <= suites_of(track)[name].misconceptions


def test_distractor_suite_always_tempts() -> None:
    for problem in load_suite("distractors"):
        assert any(same_object for _, _, same_object in problem.metadata["distractors"])


def test_wrong_suite_size_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "_problems", lambda name, track: ())
    with pytest.raises(SuiteSizeError, match="has 0 problems, its record states 200"):
        load_suite("short")
    with pytest.raises(ConfigError, match="unknown gym suite"):
        load_suite("tiny")
    with pytest.raises(ConfigError, match="unknown gym track"):
        load_suite("short", "soft")
