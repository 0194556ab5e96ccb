"""What is particular to sampling from an endpoint: the request, token ids, retries and errors."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest
from tests.support.completions_server import CompletionsServer

from sage_dpo.errors import RolloutError
from sage_dpo.records import FinishReason, Problem
from sage_dpo.rollouts import RolloutPrompt, SamplingParams, build_prompts
from sage_dpo.rollouts.server import ServerEngine, request_seed

SETTINGS = SamplingParams(samples=3, temperature=0.7, top_p=0.9, top_k=12, max_new_tokens=8)


@pytest.fixture
def prompts(tiny_tokenizer: Any) -> list[RolloutPrompt]:
    return build_prompts([Problem(f"p{i}", f"{i} + 1", "1") for i in range(6)], tiny_tokenizer)


def make_engine(server: CompletionsServer, **arguments: Any) -> ServerEngine:
    return ServerEngine(server.url, "tiny", server.tokenizer, **{"backoff_s": 0.01, "timeout_s": 10.0, **arguments})


def test_request_says_everything_explicitly(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with CompletionsServer(tiny_tokenizer).serve() as server:
        make_engine(server, api_key="secret").sample(prompts[:1], settings=SETTINGS, seed=3, policy_version=2)
    assert server.authorizations == ["Bearer secret"]
    assert server.requests == [
        {
            "model": "tiny",
            "prompt": list(prompts[0].prompt_ids),
            "n": 3,
            "max_tokens": 8,
            "temperature": 0.7,
            "seed": request_seed(3, 2, "p0"),
            "return_token_ids": True,
            "top_p": 0.9,
            "top_k": 12,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }
    ]


def test_greedy_asks_for_one_sample_and_top_k_off_is_minus_one(
    prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    with CompletionsServer(tiny_tokenizer).serve() as server:
        make_engine(server).sample(prompts[:1], settings=SamplingParams(samples=3, temperature=0.0), seed=0)
    assert (server.requests[0]["n"], server.requests[0]["top_k"]) == (1, -1)


def test_request_seeds_differ_and_fit_31_bits() -> None:
    seeds = {request_seed(seed, version, f"p{i}") for seed in (0, 1) for version in (0, 1) for i in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_text_is_encoded_where_ids_are_missing_and_counted(
    prompts: list[RolloutPrompt], tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with CompletionsServer(tiny_tokenizer).serve() as server:
        exact = make_engine(server)
        expected = exact.sample(prompts, settings=SETTINGS, seed=0)
    with CompletionsServer(tiny_tokenizer, returns_token_ids=False).serve() as server:
        engine = make_engine(server)
        with caplog.at_level(logging.WARNING):
            completions = engine.sample(prompts, settings=SETTINGS, seed=0)
    assert completions == expected  # this tokenizer has one encoding of a text
    assert exact.counts["reencoded"] == 0
    assert engine.counts["reencoded"] == 18
    assert engine.counts["eos_appended"] == sum(c.finish_reason is FinishReason.STOP for c in completions) > 0
    assert len([record for record in caplog.records if "no token ids" in record.message]) == 1


def test_busy_server_is_asked_again(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with CompletionsServer(tiny_tokenizer, failures=[503, 429]).serve() as server:
        engine = make_engine(server, concurrency=1)
        assert len(engine.sample(prompts, settings=SETTINGS, seed=0)) == 18
    assert engine.counts["retries"] == 2
    assert engine.counts["requests"] == len(server.requests) == 8


def test_refusal_is_not_repeated(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with (
        CompletionsServer(tiny_tokenizer, failures=[400] * 20).serve() as server,
        pytest.raises(RolloutError, match=r"refused the prompt of problem 'p0' \(5 tokens\) with HTTP 400.*'tiny'"),
    ):
        make_engine(server).sample(prompts[:1], settings=SETTINGS, seed=0)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 503])
def test_no_message_holds_a_key_or_a_login(status: int, prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    body = b'{"error": "Incorrect API key provided: my-key"}'
    with CompletionsServer(tiny_tokenizer, failures=[status] * 20, body=body).serve() as server:
        url = server.url.replace("://", "://me:pass@")
        engine = ServerEngine(url, "tiny", tiny_tokenizer, api_key="my-key", max_retries=1, backoff_s=0.01)
        with pytest.raises(RolloutError) as caught:
            engine.sample(prompts[:1], settings=SETTINGS, seed=0)
    assert "http://***@127.0.0.1" in str(caught.value)
    assert f"HTTP {status}" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("my-key", "pass"))
    assert ("Incorrect API key" in str(caught.value)) == (status != 401)


def test_unreachable_server_says_what_to_check(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine = ServerEngine(f"http://127.0.0.1:{port}", "tiny", tiny_tokenizer, max_retries=2, backoff_s=0.01)
    with pytest.raises(RolloutError, match=r"did not answer in 3 attempts .*ConnectError.*base_url"):
        engine.sample(prompts[:2], settings=SETTINGS, seed=0)


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"<html>", "not JSON"), (b"[]", "without `choices`"), (b'{"choices": [{}]}', "without `choices`")],
)
def test_other_formats_are_named(prompts: list[RolloutPrompt], tiny_tokenizer: Any, body: bytes, message: str) -> None:
    with (
        CompletionsServer(tiny_tokenizer, body=body).serve() as server,
        pytest.raises(RolloutError, match=message),
    ):
        make_engine(server).sample(prompts[:1], settings=SETTINGS, seed=0)


def test_missing_samples_are_an_error(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with (
        CompletionsServer(tiny_tokenizer, drop_last_choice=True).serve() as server,
        pytest.raises(RolloutError, match="2 completions for problem 'p0', expected 3"),
    ):
        make_engine(server).sample(prompts[:1], settings=SETTINGS, seed=0)
