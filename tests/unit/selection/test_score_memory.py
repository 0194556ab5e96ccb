from __future__ import annotations

import numpy as np
import pytest

from sage_dpo.forward import CompletionScores, TokenizedCompletion
from sage_dpo.selection.score_memory import ScoreMemory

A, B, C = (TokenizedCompletion((1, 2), (token, 3)) for token in (5, 6, 7))


class Scorer:
    """Scores a completion by how often it was asked, so that an old score shows."""

    def __init__(self):
        self.asked = []

    def __call__(self, completions):
        self.asked.append(list(completions))
        values = np.array([-1.0 * len(self.asked) - c.completion_ids[0] / 10 for c in completions])
        return CompletionScores(values, -values, np.array([2] * len(completions)), 4 * len(completions))


def test_young_scores_are_used_again_and_old_ones_are_not():
    memory, scorer = ScoreMemory(2), Scorer()
    first, reused = memory.scores([A, B], step=0, compute=scorer)
    assert (first.logps.tolist(), first.tokens, reused) == ([-1.5, -1.6], 8, 0.0)
    second, reused = memory.scores([C, A], step=2, compute=scorer)
    assert (second.logps.tolist(), second.tokens, reused) == ([-2.7, -1.5], 4, 0.5)
    assert second.informativeness.tolist() == [2.7, 1.5]
    third, reused = memory.scores([A, C], step=3, compute=scorer)
    assert (third.logps.tolist(), reused) == ([-3.5, -2.7], 0.5)
    assert scorer.asked == [[A, B], [C], [A]]
    assert len(memory) == 2  # B is forgotten


def test_nothing_is_computed_when_all_is_known():
    memory, scorer = ScoreMemory(5), Scorer()
    memory.scores([A], step=0, compute=scorer)
    scores, reused = memory.scores([A, A], step=1, compute=scorer)
    assert (len(scorer.asked), scores.tokens, reused) == (1, 0, 1.0)
    assert scores.lengths.tolist() == [2, 2]


def test_scores_without_informativeness_are_used_again_without_it():
    def without(completions):
        scores = Scorer()(completions)
        return CompletionScores(scores.logps, None, scores.lengths, scores.tokens)

    memory = ScoreMemory(5)
    for step in range(2):
        scores, _ = memory.scores([A, B], step=step, compute=without)
        assert scores.informativeness is None
        assert scores.logps.tolist() == [-1.5, -1.6]
    restored = ScoreMemory(5)
    restored.load_state_dict(memory.state_dict())
    scores, reused = restored.scores([A], step=2, compute=without)
    assert (scores.informativeness, reused) == (None, 1.0)


def test_age_zero_remembers_nothing():
    memory, scorer = ScoreMemory(0), Scorer()
    for _ in range(2):
        memory.scores([A], step=0, compute=scorer)
    assert len(scorer.asked) == 2
    assert len(memory) == 0


@pytest.mark.parametrize("known", [[], [A, B]])
def test_what_is_saved_comes_back(known):
    memory, scorer = ScoreMemory(2), Scorer()
    if known:
        memory.scores(known, step=4, compute=scorer)
    restored = ScoreMemory(2)
    restored.load_state_dict(memory.state_dict())
    expected, _ = memory.scores([A, C], step=6, compute=Scorer())
    found, _ = restored.scores([A, C], step=6, compute=Scorer())
    np.testing.assert_array_equal(found.logps, expected.logps)
    assert len(restored) == len(memory)
