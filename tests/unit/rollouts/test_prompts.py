"""Problems become prompts, recipes become sampling parameters and engines."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.tiny import make_tiny_tokenizer

from sage_dpo import config
from sage_dpo.errors import ConfigError
from sage_dpo.records import Problem
from sage_dpo.rollouts import SamplingParams, build_engine, build_prompts
from sage_dpo.rollouts.server import ServerEngine
from sage_dpo.rollouts.transformers import TransformersEngine

PROBLEMS = [Problem("a", "3 + 4", "7"), Problem("b", "5", "5")]


def decoded(prompts: list[Any], tokenizer: Any) -> list[str]:
    return [tokenizer.decode(prompt.prompt_ids) for prompt in prompts]


def test_chat_template_is_applied_with_generation_prompt(tiny_tokenizer: Any) -> None:
    prompts = build_prompts(PROBLEMS, tiny_tokenizer)
    assert [prompt.problem_id for prompt in prompts] == ["a", "b"]
    assert decoded(prompts, tiny_tokenizer) == ["<|user|> 3 + 4 <|assistant|>", "<|user|> 5 <|assistant|>"]


def test_template_and_system_prompt_surround_the_problem(tiny_tokenizer: Any) -> None:
    prompts = build_prompts(PROBLEMS, tiny_tokenizer, prompt_template="w1 {problem} w2", system_prompt="w3")
    assert decoded(prompts, tiny_tokenizer)[0] == "<|user|> w3 <|user|> w1 3 + 4 w2 <|assistant|>"


def test_tokenizer_without_chat_template_gets_plain_text() -> None:
    tokenizer = make_tiny_tokenizer(chat_template=None)
    assert decoded(build_prompts(PROBLEMS, tokenizer), tokenizer) == ["3 + 4", "5"]
    assert decoded(build_prompts(PROBLEMS, tokenizer, system_prompt="w3"), tokenizer)[1] == "w3 5"


def test_braces_of_the_problem_survive(tiny_tokenizer: Any) -> None:
    """LaTeX is full of braces: the template is not a format string."""
    prompts = build_prompts([Problem("a", "{0} {x}", "1")], tiny_tokenizer, prompt_template="{y} {problem}")
    assert len(prompts[0].prompt_ids) == 1 + 3 + 1


def test_no_problems_give_no_prompts(tiny_tokenizer: Any) -> None:
    assert build_prompts([], tiny_tokenizer) == []


def test_template_without_problem_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"must contain '.problem.'"):
        build_prompts(PROBLEMS, tiny_tokenizer, prompt_template="solve it")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("max_new_tokens", 0),
    ],
)
def test_invalid_sampling_parameters_are_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field} is .*; check rollouts.{field}"):
        SamplingParams(**{field: value})  # type: ignore[arg-type]


def test_greedy_samples_are_decoded_once_and_copied() -> None:
    greedy, sampled = SamplingParams(samples=4, temperature=0.0), SamplingParams(samples=4, temperature=0.1)
    assert (greedy.is_greedy, greedy.copies) == (True, 4)
    assert (sampled.is_greedy, sampled.copies) == (False, 1)


def test_sampling_parameters_come_from_the_recipe() -> None:
    settings = config.RolloutSettings(samples=3, temperature=0.5, top_p=0.9, top_k=7, max_new_tokens=11)
    assert SamplingParams.from_settings(settings) == SamplingParams(3, 0.5, 0.9, 7, 11)


def test_recipe_names_the_engine(tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    local = build_engine(config.TransformersEngineSettings(batch_size=5), model=tiny_model, tokenizer=tiny_tokenizer)
    assert isinstance(local, TransformersEngine)
    assert local.batch_size == 5
    monkeypatch.setenv("MY_KEY", "secret")
    settings = config.ServerEngineSettings(kind="server", base_url="http://h:1/", model="m", api_key_env="MY_KEY")
    remote = build_engine(settings, model=None, tokenizer=tiny_tokenizer)
    assert isinstance(remote, ServerEngine)
    assert (remote.settings, remote._api_key) == (settings, "secret")
