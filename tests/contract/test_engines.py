"""The contract of every rollout engine. A new engine is one row in `ENGINES`."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.support.completions_server import CompletionsServer
from tests.support.tiny import make_tiny_model

from sage_dpo.config import ServerEngineSettings
from sage_dpo.errors import ConfigError, DataError
from sage_dpo.records import FinishReason, Problem
from sage_dpo.rollouts import RolloutEngine, RolloutPrompt, SamplingParams, build_prompts
from sage_dpo.rollouts.server import ServerEngine
from sage_dpo.rollouts.transformers import TransformersEngine

SETTINGS = SamplingParams(samples=6, temperature=1.0, max_new_tokens=20)


@contextlib.contextmanager
def in_process(tokenizer: Any, batch_size: int = 16) -> Iterator[RolloutEngine]:
    yield TransformersEngine(make_tiny_model(), tokenizer, batch_size=batch_size)


@contextlib.contextmanager
def with_adapter(tokenizer: Any) -> Iterator[RolloutEngine]:
    adapter = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield TransformersEngine(get_peft_model(make_tiny_model(), adapter), tokenizer, batch_size=16)


@contextlib.contextmanager
def served(tokenizer: Any, returns_token_ids: bool = True) -> Iterator[RolloutEngine]:
    with CompletionsServer(tokenizer, returns_token_ids=returns_token_ids).serve() as server:
        settings = ServerEngineSettings(
            kind="server", base_url=server.url, concurrency=4, timeout_s=10.0, encode_text=not returns_token_ids
        )
        yield ServerEngine(settings, tokenizer)


ENGINES: dict[str, Callable[[Any], contextlib.AbstractContextManager[RolloutEngine]]] = {
    "transformers": in_process,
    "transformers, batches of 5": lambda tokenizer: in_process(tokenizer, 5),
    "transformers, LoRA": with_adapter,
    "server": served,
    "server without token ids": lambda tokenizer: served(tokenizer, returns_token_ids=False),
}


SLOW = ("transformers, batches of 5", "transformers, LoRA")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ENGINES])
def engine(request: pytest.FixtureRequest, tiny_tokenizer: Any) -> Iterator[RolloutEngine]:
    with ENGINES[request.param](tiny_tokenizer) as engine:
        yield engine


@pytest.fixture(scope="module")
def prompts(tiny_tokenizer: Any) -> list[RolloutPrompt]:
    rng = random.Random(0)
    texts = [" ".join(str(rng.randrange(30)) for _ in range(rng.randrange(1, 9))) for _ in range(14)]
    return build_prompts([Problem(f"p{i}", text, "1") for i, text in enumerate(texts)], tiny_tokenizer)


def tokens(completions: list[Any]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


def test_completions_come_by_prompt_then_sample(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    completions = engine.sample(prompts, settings=SETTINGS, seed=1, policy_version=3)
    expected = [(prompt.problem_id, sample) for prompt in prompts for sample in range(6)]
    assert [(c.problem_id, c.sample) for c in completions] == expected
    by_id = {prompt.problem_id: prompt.prompt_ids for prompt in prompts}
    assert all(c.prompt_ids == by_id[c.problem_id] and c.policy_version == 3 for c in completions)


def test_finish_reason_says_whether_the_end_token_was_sampled(
    engine: RolloutEngine, prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    completions = engine.sample(prompts, settings=SETTINGS, seed=1)
    eos = tiny_tokenizer.eos_token_id
    for completion in completions:
        assert eos not in completion.token_ids[:-1]
        assert (completion.token_ids[-1] == eos) == (completion.finish_reason is FinishReason.STOP)
        assert completion.finish_reason is FinishReason.STOP or len(completion.token_ids) == 20
        assert completion.text == tiny_tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    assert {completion.finish_reason for completion in completions} == set(FinishReason)


def test_token_limit_holds(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    completions = engine.sample(prompts, settings=replace(SETTINGS, max_new_tokens=1), seed=1)
    assert {len(completion.token_ids) for completion in completions} == {1}


def test_same_seed_gives_the_same_and_another_seed_others(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    first = engine.sample(prompts, settings=SETTINGS, seed=1)
    assert engine.sample(prompts, settings=SETTINGS, seed=1) == first
    assert tokens(engine.sample(prompts, settings=SETTINGS, seed=2)) != tokens(first)


def test_another_policy_version_draws_anew(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    first = engine.sample(prompts, settings=SETTINGS, seed=1, policy_version=0)
    assert tokens(engine.sample(prompts, settings=SETTINGS, seed=1, policy_version=1)) != tokens(first)


def test_samples_of_a_prompt_differ(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    completions = engine.sample(prompts, settings=SETTINGS, seed=1)
    for start in range(0, len(completions), 6):
        assert len(set(tokens(completions[start : start + 6]))) > 1


def test_other_prompts_and_their_order_do_not_matter(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    together = engine.sample(prompts, settings=SETTINGS, seed=1)
    backwards = engine.sample(prompts[::-1], settings=SETTINGS, seed=1)
    alone = engine.sample(prompts[3:4], settings=SETTINGS, seed=1)
    assert sorted(together, key=lambda c: (c.problem_id, c.sample)) == sorted(
        backwards, key=lambda c: (c.problem_id, c.sample)
    )
    assert alone == together[18:24]


def test_greedy_samples_are_equal_and_ignore_the_seed(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    greedy = replace(SETTINGS, temperature=0.0, samples=2)
    completions = engine.sample(prompts, settings=greedy, seed=1)
    assert tokens(completions[::2]) == tokens(completions[1::2])
    assert [completion.sample for completion in completions[:4]] == [0, 1, 0, 1]
    assert engine.sample(prompts, settings=greedy, seed=2) == completions


def test_global_random_state_is_neither_read_nor_written(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        before = state()
        first = engine.sample(prompts, settings=SETTINGS, seed=1)
        assert state() == before
        torch.manual_seed(8)
        assert engine.sample(prompts, settings=SETTINGS, seed=1) == first


def test_completions_are_handed_over_prompt_by_prompt(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    for settings in (SETTINGS, replace(SETTINGS, temperature=0.0, samples=2)):
        kept: list[list[Any]] = []
        completions = engine.sample(prompts, settings=settings, seed=1, keep=kept.append)
        by_prompt = {part[0].problem_id: part for part in kept}
        assert len(by_prompt) == len(kept) == len(prompts)
        assert [completion for prompt in prompts for completion in by_prompt[prompt.problem_id]] == completions


def test_a_failure_to_keep_ends_the_sampling(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    def full(_: Any) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        engine.sample(prompts, settings=SETTINGS, seed=1, keep=full)


def test_no_prompts_give_no_completions(engine: RolloutEngine) -> None:
    assert engine.sample([], settings=SETTINGS, seed=1) == []


def test_unservable_requests_are_refused(engine: RolloutEngine, prompts: list[RolloutPrompt]) -> None:
    with pytest.raises(DataError, match="more than once, first 'p0'"):
        engine.sample([prompts[0], prompts[0]], settings=SETTINGS, seed=1)
    with pytest.raises(DataError, match="'p9': the prompt has no tokens"):
        engine.sample([RolloutPrompt("p9", ())], settings=SETTINGS, seed=1)
    with pytest.raises(ConfigError, match="seed is -1"):
        engine.sample(prompts, settings=SETTINGS, seed=-1)
