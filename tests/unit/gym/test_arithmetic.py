"""Stories without words: results, bounds, columns, and a digest that knows numbers only."""

from __future__ import annotations

import pytest

from sage_dpo.gym.arithmetic import (
    MAX_NUMBER,
    OPERATIONS,
    Distractor,
    Operation,
    Step,
    Story,
    apply,
    crosses_column,
    equation,
    final_sentence,
)

ADD, SUBTRACT, MULTIPLY, DIVIDE = Operation


@pytest.mark.parametrize(
    ("operation", "state", "operand", "result"),
    [
        (ADD, 12, 7, 19),
        (SUBTRACT, 12, 7, 5),
        (MULTIPLY, 12, 3, 36),
        (DIVIDE, 12, 3, 4),
        # only wrong paths come here: a quotient without its remainder, and the ends of the numbers that have a token
        (DIVIDE, 13, 3, 4),
        (SUBTRACT, 5, 7, 0),
        (MULTIPLY, 49, 5, MAX_NUMBER),
    ],
)
def test_a_step_gives_its_result_within_the_vocabulary(operation, state, operand, result):
    assert apply(Step(operation, operand), state) == result


@pytest.mark.parametrize(
    ("operation", "state", "operand", "crosses"),
    [
        (ADD, 14, 5, False),  # 4 + 5 = 9
        (ADD, 14, 6, True),  # 4 + 6 = 10: carry
        (SUBTRACT, 14, 4, False),
        (SUBTRACT, 14, 5, True),  # 4 < 5: borrow
        (MULTIPLY, 19, 5, False),  # columns are of sums and differences
        (DIVIDE, 10, 5, False),
    ],
)
def test_columns_are_crossed_by_carries_and_borrows(operation, state, operand, crosses):
    assert crosses_column(Step(operation, operand), state) is crosses


def test_states_lead_from_the_start_to_the_answer():
    story = Story(12, (Step(ADD, 7), Step(MULTIPLY, 2), Step(SUBTRACT, 3)))
    assert story.states() == [12, 19, 38, 35]
    assert story.answer == 35
    assert Story(12, ()).answer == 12


def test_the_digest_depends_on_every_number_and_their_order():
    base = Story(12, (Step(ADD, 7), Step(SUBTRACT, 3)), (Distractor(0, 5, True),))
    others = [
        Story(13, base.steps, base.distractors),
        Story(12, base.steps[::-1], base.distractors),
        Story(12, (Step(ADD, 7), Step(SUBTRACT, 4)), base.distractors),
        Story(12, (Step(SUBTRACT, 7), Step(SUBTRACT, 3)), base.distractors),
        Story(12, base.steps),
        Story(12, base.steps, (Distractor(1, 5, True),)),
        Story(12, base.steps, (Distractor(0, 6, True),)),
        Story(12, base.steps, (Distractor(0, 5, False),)),
    ]
    assert len({story.digest() for story in (base, *others)}) == 9
    assert Story(12, base.steps, base.distractors).digest() == base.digest()
    assert 0 <= base.digest() < 2**32


def test_written_steps_use_the_symbols_that_are_parsed():
    assert equation(12, Step(ADD, 7), 19) == "12 + 7 = 19 ."
    assert {operation.symbol: operation for operation in Operation} == OPERATIONS
    assert final_sentence(19) == "The answer is \\boxed{ 19 }"
