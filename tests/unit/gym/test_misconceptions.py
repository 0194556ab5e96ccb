"""Misconceptions: contexts, wrong rules worked by hand, prevalence, diagnosis of completions."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from sage_dpo.gym.arithmetic import Distractor, Operation, Step, Story, apply
from sage_dpo.gym.misconceptions import (
    COUNTS_DISTRACTOR,
    COUNTS_DISTRACTOR_PREVALENCE,
    MISCONCEPTIONS,
    SLIP,
    SLIP_RATE,
    STRUCTURE,
    Diagnosis,
    diagnose,
    find_contexts,
    misconception_at,
    solve,
    solve_with_misconceptions,
)
from sage_dpo.gym.world import generate_problems, story_of

ADD, SUBTRACT, MULTIPLY, DIVIDE = Operation

# 12 apples, somebody else's 5 before the second step, 12 + 9 = 21, 21 * 2 = 42, 42 - 14 = 28
STORY = Story(12, (Step(ADD, 9), Step(MULTIPLY, 2), Step(SUBTRACT, 14)), (Distractor(1, 5, True),))


@pytest.mark.parametrize(
    ("state", "operation", "operand", "name", "wrong"),
    [
        # product with an odd left side: the sum instead
        (7, MULTIPLY, 3, "odd_product", 10),
        (21, MULTIPLY, 2, "odd_product", 23),
        # product with an even left side: one group too few
        (8, MULTIPLY, 3, "even_product_slip", 16),
        (20, MULTIPLY, 2, "even_product_slip", 20),
        # units 8 + 7 = 15 >= 10: the ten is dropped
        (18, ADD, 7, "forgotten_carry", 15),
        (25, ADD, 15, "forgotten_carry", 30),
        # units 2 < 5: 5 - 2 = 3 in the units column
        (32, SUBTRACT, 15, "smaller_from_larger", 23),
        (40, SUBTRACT, 7, "smaller_from_larger", 47),
    ],
)
def test_wrong_rules_match_hand_worked_rows(
    state: int, operation: Operation, operand: int, name: str, wrong: int
) -> None:
    step = Step(operation, operand)
    found = misconception_at(step, state)
    assert found is not None
    assert found.name == name
    assert found.wrong_result(step, state) == wrong
    assert wrong != apply(step, state)


@pytest.mark.parametrize(
    ("state", "operation", "operand"),
    [(12, ADD, 7), (10, ADD, 10), (38, SUBTRACT, 15), (40, SUBTRACT, 10), (9, DIVIDE, 3)],
)
def test_plain_steps_offer_no_misconception(state: int, operation: Operation, operand: int) -> None:
    assert misconception_at(Step(operation, operand), state) is None


def test_contexts_exclude_each_other_and_change_the_result() -> None:
    for operation in Operation:
        for state in range(2, 50):
            for operand in range(2, 19):
                step = Step(operation, operand)
                holders = [m for m in MISCONCEPTIONS if m.applies(step, state)]
                assert len(holders) <= 1
                if holders and 2 <= (result := apply(step, state)) <= 49:
                    assert holders[0].wrong_result(step, state) != result


def test_find_contexts_names_every_step() -> None:
    # 12 + 9: units 2 + 9 = 11, a carry; 21 * 2: odd left side, after a tempting 5; 42 - 14: units 2 < 4, a borrow
    assert find_contexts(STORY) == [["forgotten_carry"], [COUNTS_DISTRACTOR, "odd_product"], ["smaller_from_larger"]]


def test_solve_states_every_step_and_the_answer() -> None:
    assert solve(STORY) == "12 + 9 = 21 . 21 * 2 = 42 . 42 - 14 = 28 . The answer is \\boxed{ 28 }"
    assert diagnose(STORY, solve(STORY)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # carry dropped at step 0, later steps follow from it
        ("12 + 9 = 11 . 11 * 2 = 22 . 22 - 14 = 8 . The answer is \\boxed{ 8 }", Diagnosis(0, "forgotten_carry")),
        # somebody else's 5 counted before step 1
        (
            "12 + 9 = 21 . 21 + 5 = 26 . 26 * 2 = 52 . 52 - 14 = 38 . The answer is \\boxed{ 38 }",
            Diagnosis(1, COUNTS_DISTRACTOR),
        ),
        # 21 + 2 for 21 * 2
        ("12 + 9 = 21 . 21 * 2 = 23 . 23 - 14 = 9 . The answer is \\boxed{ 9 }", Diagnosis(1, "odd_product")),
        # 4 - 2 in the units column
        (
            "12 + 9 = 21 . 21 * 2 = 42 . 42 - 14 = 32 . The answer is \\boxed{ 32 }",
            Diagnosis(2, "smaller_from_larger"),
        ),
        # wrong in a way no rule explains
        ("12 + 9 = 21 . 21 * 2 = 41 . 41 - 14 = 27 . The answer is \\boxed{ 27 }", Diagnosis(1, SLIP)),
        # a step skipped, another operand, the text cut off, another answer than derived, an empty text
        ("12 + 9 = 21 . 21 - 14 = 7 . The answer is \\boxed{ 7 }", Diagnosis(1, STRUCTURE)),
        ("12 + 8 = 20 . 20 * 2 = 40 . 40 - 14 = 26 . The answer is \\boxed{ 26 }", Diagnosis(0, STRUCTURE)),
        ("12 + 9 = 21 . 21 * 2 = 42 .", Diagnosis(2, STRUCTURE)),
        ("12 + 9 = 21 . 21 * 2 = 42 . 42 - 14 = 28 . The answer is \\boxed{ 42 }", Diagnosis(3, STRUCTURE)),
        ("", Diagnosis(0, STRUCTURE)),
    ],
)
def test_diagnose_finds_the_first_wrong_step(text: str, expected: Diagnosis) -> None:
    assert diagnose(STORY, text) == expected


def test_prevalences_are_realised_within_four_standard_errors() -> None:
    rng = random.Random(0)
    cases = [
        (m.name, m.prevalence, Step(op, k), state)
        for m, op, k, state in (
            (MISCONCEPTIONS[0], MULTIPLY, 3, 7),
            (MISCONCEPTIONS[1], MULTIPLY, 3, 8),
            (MISCONCEPTIONS[2], ADD, 7, 18),
            (MISCONCEPTIONS[3], SUBTRACT, 7, 40),
        )
    ]
    cases += [
        (m.name, m.prevalence_of(Step(op, k)), Step(op, k), state)
        for m, op, k, state in (
            (MISCONCEPTIONS[2], ADD, 15, 25),
            (MISCONCEPTIONS[3], SUBTRACT, 15, 32),
        )
    ]
    for name, prevalence, step, state in cases:
        story = Story(state, (step,))
        found = [diagnose(story, solve_with_misconceptions(story, rng)) for _ in range(2000)]
        share = sum(d is not None and d.cause == name for d in found) / 2000
        assert share == pytest.approx(prevalence, abs=4 * (prevalence * (1 - prevalence) / 2000) ** 0.5)


def test_distractors_and_slips_occur_at_their_rates() -> None:
    rng = random.Random(1)
    story = Story(10, (Step(ADD, 2),), (Distractor(0, 5, True), Distractor(0, 7, False)))
    causes = Counter(
        d.cause for _ in range(4000) if (d := diagnose(story, solve_with_misconceptions(story, rng))) is not None
    )
    assert causes[COUNTS_DISTRACTOR] / 4000 == pytest.approx(COUNTS_DISTRACTOR_PREVALENCE, abs=0.031)
    assert causes[SLIP] / (4000 - causes[COUNTS_DISTRACTOR]) == pytest.approx(SLIP_RATE, abs=0.008)
    assert set(causes) == {COUNTS_DISTRACTOR, SLIP}


def test_every_flawed_solution_is_diagnosed_at_a_step_that_offers_its_cause() -> None:
    rng = random.Random(2)
    for problem in generate_problems("probe", 300, seed=0):
        story = story_of(problem)
        diagnosis = diagnose(story, solve_with_misconceptions(story, rng))
        if diagnosis is not None and diagnosis.cause != SLIP:
            assert diagnosis.cause in problem.metadata["contexts"][diagnosis.step]
