"""The rules that several stages share: unknown verdicts, and pairs that can be trained on."""

from __future__ import annotations

import pytest

from sage_dpo.records import Verdict, VerdictKind
from sage_dpo.rules import (
    EMPTY,
    EMPTY_PROMPT,
    EQUAL,
    OVER_LONG,
    completion_exclusion,
    pair_exclusion,
    success_rate,
    verdict_counts,
)

EOS = 9
CORRECT, WRONG, UNPARSEABLE, TIMEOUT, ERROR = VerdictKind


@pytest.mark.parametrize(
    ("kinds", "rate"),
    [
        ([CORRECT, WRONG], 0.5),
        ([CORRECT, WRONG, TIMEOUT, ERROR], 0.5),  # unknown: not in the denominator
        ([CORRECT, UNPARSEABLE, UNPARSEABLE], 1 / 3),  # known: it failed to give the answer it was asked for
        ([CORRECT, TIMEOUT], 1.0),
        ([WRONG, ERROR], 0.0),
        ([TIMEOUT, ERROR], None),
        ([], None),
        (["correct", "wrong", "timeout"], 0.5),  # as text, from a file
    ],
)
def test_success_rate_is_correct_over_known(kinds, rate):
    assert success_rate(kinds) == rate


def test_timeouts_and_errors_are_the_unknown_verdicts():
    assert [kind for kind in VerdictKind if not kind.is_known] == [TIMEOUT, ERROR]


def test_counts_name_every_kind():
    verdicts = [Verdict("p", sample, kind) for sample, kind in enumerate([CORRECT, CORRECT, ERROR])]
    assert verdict_counts(verdicts) == {"correct": 2, "wrong": 0, "unparseable": 0, "timeout": 0, "error": 1}
    assert set(verdict_counts([]).values()) == {0}


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "reason"),
    [
        ([1], [2, EOS], [3, EOS], None),
        ([1, 1], [2, 2, EOS], [3, EOS], None),  # 2 + 3 = 5 tokens, the bound
        ([1, 1], [2, EOS], [3, 3, 3, EOS], OVER_LONG),  # 2 + 4
        ([1, 1], [2, 2, 2, EOS], [3, EOS], OVER_LONG),
        ([], [2, EOS], [3, EOS], EMPTY_PROMPT),
        ([1], [EOS], [3, EOS], EMPTY),
        ([1], [2, EOS], [], EMPTY),
        ([1], [2, EOS], [2, EOS], EQUAL),
        # several apply: the first of prompt, completion, equal, length
        ([], [], [3, EOS], EMPTY_PROMPT),
        ([1], [EOS], [EOS], EMPTY),
        ([1], [2] * 9, [EOS], EMPTY),
        ([1], [2] * 9, [2] * 9, EQUAL),
    ],
)
def test_a_pair_that_cannot_be_trained_on_has_one_reason(prompt, chosen, rejected, reason):
    assert pair_exclusion(prompt, chosen, rejected, max_length=5, eos_token_id=EOS) == reason
    swapped = pair_exclusion(tuple(prompt), tuple(rejected), chosen, max_length=5, eos_token_id=EOS)
    assert swapped == reason  # sides and sequence types do not matter


def test_without_a_bound_nothing_is_too_long():
    assert completion_exclusion([1] * 900, [2] * 900, max_length=None, eos_token_id=None) is None
