"""Every kind of answer that was once graded wrongly, with its neighbours, through the whole verifier.

The rows are in `tests/support/answers/`. Many come from public threads of math-verify, open-r1, TRL, lighteval and
NeMo (mathematics kept, texts invented), the rest are their neighbours.

Two labels differ from those that were proposed to us, on purpose: for the gold `101_2` a bare 5 is wrong, and so is 11
for `1011_2`. Such golds answer "write 5 in base 2", and a policy would learn to repeat the question.
"""

from __future__ import annotations

import pytest
from tests.support.answers.completions import COMPLETIONS
from tests.support.answers.numbers import CHARACTERS, HEDGES, POWERS, UNITS
from tests.support.answers.structures import ALGEBRA, CODES, SETS, SPECIAL, WORDS

from sage_dpo.records import Verdict
from sage_dpo.verification import VerificationRequest, Verifier

pytestmark = pytest.mark.slow  # a thousand answers, a third of them for math-verify

BOXED = [*POWERS, *CHARACTERS, *HEDGES, *UNITS, *SETS, *WORDS, *SPECIAL, *ALGEBRA, *CODES, ("101_2", [], ["5"]),
         ("1011_2", [], ["11"])]  # fmt: skip
ROWS = [
    (gold, f"So the result is \\boxed{{{answer}}}.", is_right)
    for gold, *answers in BOXED
    for is_right, group in zip((True, False), answers, strict=True)
    for answer in group
] + [
    (gold, completion, is_right)
    for gold, *completions in COMPLETIONS
    for is_right, group in zip((True, False), completions, strict=True)
    for completion in group
]


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    requests = [VerificationRequest(str(index), 0, text, gold) for index, (gold, text, _) in enumerate(ROWS)]
    with Verifier(workers=2) as verifier:
        return verifier.verify(requests)


@pytest.mark.parametrize("index", range(len(ROWS)), ids=[f"{gold} <- {text}"[:70] for gold, text, _ in ROWS])
def test_row(index: int, verdicts: list[Verdict]) -> None:
    verdict = verdicts[index]
    assert verdict.kind.is_known, verdict
    assert verdict.is_correct == ROWS[index][2], verdict
