"""Completions are dealt out to processes in equal shares, prompts together where they can be."""

from __future__ import annotations

import numpy as np
import pytest
from accelerate import Accelerator

from sage_dpo.forward import TokenizedCompletion, score_completions
from sage_dpo.training.sharding import ShardedScorer, _deal


def make(prompts: int, each: int, *, prompt: int = 20, seed: int = 0) -> list[TokenizedCompletion]:
    rng = np.random.default_rng(seed)
    return [
        TokenizedCompletion((number,) * prompt, (index,) * int(rng.integers(20, 200)))
        for number in range(prompts)
        for index in range(each)
    ]


def loads(completions: list[TokenizedCompletion], world: int) -> list[int]:
    return [sum(len(completions[i]) for i in share) for share in _deal(completions, world)]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 64])
def test_each_is_dealt_once(count, world):
    shares = _deal(make(count, 2), world)
    assert len(shares) == world
    assert sorted(np.concatenate(shares).tolist()) == list(range(2 * count))


def test_completions_of_a_prompt_stay_together():
    completions = make(64, 2)
    for share in _deal(completions, 8):
        assert sorted(share.tolist()) == sorted(i ^ 1 for i in share.tolist())


@pytest.mark.parametrize(("prompts", "each"), [(64, 2), (32, 2), (4, 8), (1, 64)])
def test_shares_are_about_equal_also_with_fewer_prompts_than_processes(prompts, each):
    found = loads(make(prompts, each), 8)
    assert max(found) < 1.35 * np.mean(found)


@pytest.mark.parametrize("with_informativeness", [True, False])
def test_one_process_gives_what_the_scorer_gives(tiny_model, with_informativeness):
    completions = make(3, 2, prompt=5)
    scorer = ShardedScorer(Accelerator(cpu=True), token_budget=500, is_sharded=False, progress=False)
    found = scorer.score(tiny_model, completions, with_informativeness=with_informativeness)
    expected = score_completions(tiny_model, completions, token_budget=500, with_informativeness=with_informativeness)
    np.testing.assert_allclose(found.logps, expected.logps, rtol=1e-5)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    assert found.tokens == expected.tokens
    assert (found.informativeness is not None) is with_informativeness
    if with_informativeness:
        np.testing.assert_allclose(found.informativeness, expected.informativeness, rtol=1e-5)
