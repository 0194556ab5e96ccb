"""What is particular to sampling from servers: the request, token ids, retries, what is left out, and errors."""

from __future__ import annotations

import datetime
import logging
import re
import socket
import threading
from email.utils import format_datetime
from typing import Any

import pytest
from tests.support.completions_server import CompletionsServer

from sage_dpo.config import ServerEngineSettings, server_root
from sage_dpo.errors import RolloutError
from sage_dpo.records import Completion, FinishReason, Problem
from sage_dpo.rollouts import RolloutPrompt, SamplingParams, build_prompts
from sage_dpo.rollouts.endpoint import retry_after
from sage_dpo.rollouts.server import TOO_LONG, UNANSWERED, ServerEngine, request_seed

SETTINGS = SamplingParams(samples=3, temperature=0.7, top_p=0.9, top_k=12, max_new_tokens=8)


@pytest.fixture
def prompts(tiny_tokenizer: Any) -> list[RolloutPrompt]:
    return build_prompts([Problem(f"p{i}", f"{i} + 1", "1") for i in range(6)], tiny_tokenizer)


def make_engine(*servers: CompletionsServer, api_key: str | None = None, **arguments: Any) -> ServerEngine:
    given = {
        "base_url": [server.url for server in servers], "model": "tiny", "backoff_s": 0.01, "timeout_s": 10.0,
        "retry_s": 20.0, "health_s": 0.05, **arguments,
    }  # fmt: skip
    return ServerEngine(ServerEngineSettings(kind="server", **given), servers[0].tokenizer, api_key=api_key)


def names(completions: list[Completion]) -> set[str]:
    return {completion.problem_id for completion in completions}


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


def test_an_open_model_name_is_the_first_that_is_served(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with CompletionsServer(tiny_tokenizer, models=["other", "tiny"]).serve() as server:
        make_engine(server, model=None).sample(prompts[:1], settings=SETTINGS, seed=0)
    assert server.requests[0]["model"] == "other"


def test_a_server_that_lists_no_models_is_asked_all_the_same(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with CompletionsServer(tiny_tokenizer, models=None).serve() as server:
        assert len(make_engine(server).sample(prompts, settings=SETTINGS, seed=0)) == 18
        with pytest.raises(RolloutError, match=r"/v1/models was refused with HTTP 404.*name rollouts.engine.model"):
            make_engine(server, model=None).sample(prompts, settings=SETTINGS, seed=0)


def test_text_is_encoded_where_ids_are_missing_and_that_is_wanted(
    prompts: list[RolloutPrompt], tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with CompletionsServer(tiny_tokenizer).serve() as server:
        exact = make_engine(server)
        expected = exact.sample(prompts, settings=SETTINGS, seed=0)
    with CompletionsServer(tiny_tokenizer, returns_token_ids=False).serve() as server:
        engine = make_engine(server, encode_text=True)
        with caplog.at_level(logging.WARNING):
            completions = engine.sample(prompts, settings=SETTINGS, seed=0)
        with pytest.raises(RolloutError, match=r"returns no token ids.*return_token_ids.*encode_text"):
            make_engine(server).sample(prompts, settings=SETTINGS, seed=0)
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


def test_retry_after_is_kept_to(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    """A server that wants to be left alone for longer than `retry_s` is not asked a second time."""
    with (
        CompletionsServer(tiny_tokenizer, failures=[429] * 3, retry_after="3600").serve() as server,
        pytest.raises(RolloutError, match=r"no answer in 1 attempts .*HTTP 429"),
    ):
        make_engine(server).sample(prompts[:1], settings=SETTINGS, seed=0)
    assert len(server.requests) == 1


def test_retry_after_is_seconds_or_a_date() -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    assert 90 < retry_after(format_datetime(later, usegmt=True)) <= 100
    assert [retry_after(value) for value in ("7", "1.5", "-1", None, "soon")] == [7.0, 1.5, 0.0, 0.0, 0.0]


def test_a_server_that_dies_and_comes_back_is_waited_for(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    """What was answered before is kept and not asked again."""
    with CompletionsServer(tiny_tokenizer).serve() as server:
        expected = make_engine(server).sample(prompts, settings=SETTINGS, seed=0)
    kept: list[str] = []
    dying, back = CompletionsServer(tiny_tokenizer, dies_after=2), CompletionsServer(tiny_tokenizer)
    with dying.serve():
        port = int(dying.url.split(":")[2].split("/")[0])
        done = threading.Event()

        def restart() -> None:
            dying.dead.wait(20)
            with back.serve(port):
                done.wait(20)

        restarting = threading.Thread(target=restart)
        restarting.start()
        engine = make_engine(dying, concurrency=1)
        completions = engine.sample(
            prompts, settings=SETTINGS, seed=0, keep=lambda completions: kept.append(completions[0].problem_id)
        )
        done.set()
        restarting.join()
    assert completions == expected
    assert sorted(kept) == sorted(prompt.problem_id for prompt in prompts)
    assert len(back.requests) == 4
    assert engine.counts["retries"] >= 1


def test_what_was_answered_is_handed_over_before_a_failure_ends_the_job(
    prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    kept: list[str] = []
    with (
        CompletionsServer(tiny_tokenizer, dies_after=4).serve() as server,
        pytest.raises(RolloutError, match=r"no answer in .*; 4 of 6 prompts had been answered"),
    ):
        make_engine(server, concurrency=1, retry_s=0.2).sample(
            prompts, settings=SETTINGS, seed=0, keep=lambda completions: kept.append(completions[0].problem_id)
        )
    assert kept == ["p0", "p1", "p2", "p3"]


def test_several_servers_share_the_requests(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with CompletionsServer(tiny_tokenizer).serve() as one, CompletionsServer(tiny_tokenizer).serve() as two:
        expected = make_engine(one).sample(prompts, settings=SETTINGS, seed=0)
        one.requests.clear()
        assert make_engine(one, two, concurrency=2).sample(prompts, settings=SETTINGS, seed=0) == expected
    assert min(len(one.requests), len(two.requests)) >= 1
    assert len(one.requests) + len(two.requests) == 6


def test_another_server_takes_over(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with (
        CompletionsServer(tiny_tokenizer, dies_after=1).serve() as dying,
        CompletionsServer(tiny_tokenizer).serve() as other,
    ):
        assert len(make_engine(dying, other, concurrency=2).sample(prompts, settings=SETTINGS, seed=0)) == 18
    assert len(other.requests) >= 5


def test_requests_of_a_server_that_stopped_working_are_retried_before_their_deadline(
    prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    """A server in its shutdown answers no more, but keeps its connections open."""
    with (
        CompletionsServer(tiny_tokenizer, hang=99, is_well=False).serve() as hanging,
        CompletionsServer(tiny_tokenizer).serve() as other,
    ):
        engine = make_engine(hanging, other, timeout_s=3600.0)
        assert len(engine.sample(prompts, settings=SETTINGS, seed=0)) == 18
    assert len(hanging.requests) >= 1


def test_a_request_has_a_deadline(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with CompletionsServer(tiny_tokenizer, hang=1).serve() as server:
        engine = make_engine(server, timeout_s=0.3)
        assert len(engine.sample(prompts[:1], settings=SETTINGS, seed=0)) == 3
    assert engine.counts["retries"] == 1


def test_prompts_beyond_the_context_are_left_out_and_counted(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["1 + 1", " ".join(["2 +"] * 30), "3 + 1"]
    prompts = build_prompts([Problem(f"p{i}", text, "1") for i, text in enumerate(texts)], tiny_tokenizer)
    with CompletionsServer(tiny_tokenizer, context=40).serve() as server:
        engine = make_engine(server)
        with caplog.at_level(logging.WARNING):
            completions = engine.sample(prompts, settings=SETTINGS, seed=0)
        assert names(completions) == {"p0", "p2"}
        assert engine.exclusions == {TOO_LONG: 1}
        assert "1 of 3 prompts left out, first 'p1'" in caplog.text
        with pytest.raises(RolloutError, match="all 1 prompts were left out"):
            engine.sample(prompts[1:2], settings=SETTINGS, seed=0)


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_a_completion_that_was_broken_off_is_no_answer(
    reason: str | None, prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    with CompletionsServer(tiny_tokenizer).serve() as server:
        expected = make_engine(server).sample(prompts, settings=SETTINGS, seed=0)
    with CompletionsServer(tiny_tokenizer, broken_off=[reason]).serve() as server:
        engine = make_engine(server)
        assert engine.sample(prompts, settings=SETTINGS, seed=0) == expected
    assert engine.counts["retries"] == 1


def test_a_prompt_with_another_end_is_left_out(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with CompletionsServer(tiny_tokenizer, broken_off=["content_filter"]).serve() as server:
        engine = make_engine(server, concurrency=1)
        completions = engine.sample(prompts, settings=SETTINGS, seed=0)
    assert "p0" not in names(completions)
    assert engine.exclusions == {"completion ended with finish_reason 'content_filter'": 1}


def test_a_prompt_that_fails_while_others_are_answered_is_left_out(
    prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    class Poisoned(CompletionsServer):
        def answer(self, request: dict[str, Any]) -> tuple[int, Any]:
            is_poison = request["prompt"] == list(prompts[0].prompt_ids)
            return (500, {"error": "assert"}) if is_poison else super().answer(request)

    with Poisoned(tiny_tokenizer).serve() as server:
        engine = make_engine(server, retry_s=0.5)
        completions = engine.sample(prompts, settings=SETTINGS, seed=0)
    assert names(completions) == {"p1", "p2", "p3", "p4", "p5"}
    assert engine.exclusions == {UNANSWERED: 1}


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_refusal_is_not_repeated(status: int, prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    told = rf"refused the prompt of problem 'p0' \(5 tokens\) with HTTP {status}.*prompts of token ids.*'tiny'"
    with (
        CompletionsServer(tiny_tokenizer, failures=[status] * 20).serve() as server,
        pytest.raises(RolloutError, match=told),
    ):
        make_engine(server).sample(prompts[:1], settings=SETTINGS, seed=0)
    assert len(server.requests) == 1


def test_another_model_is_named(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with (
        CompletionsServer(tiny_tokenizer, models=["big"]).serve() as server,
        pytest.raises(RolloutError, match=r"serves \['big'\], expected tiny"),
    ):
        make_engine(server).sample(prompts, settings=SETTINGS, seed=0)
    assert not server.requests


def test_another_tokenizer_is_named(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    class Reversed:
        eos_token_id = tiny_tokenizer.eos_token_id

        def __len__(self) -> int:
            return len(tiny_tokenizer)

        def decode(self, ids: list[int], **_: Any) -> str:
            return str(tiny_tokenizer.decode([len(tiny_tokenizer) + 4 - i for i in ids]))

    with CompletionsServer(tiny_tokenizer).serve() as server:
        engine = make_engine(server)
        server.tokenizer = Reversed()
        with pytest.raises(RolloutError, match=r"reads the token ids .* the policy's tokenizer as"):
            engine.sample(prompts, settings=SETTINGS, seed=0)


@pytest.mark.parametrize("status", [400, 401, 503])
def test_no_message_holds_a_key_or_a_login(status: int, prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    body = b'{"error": "Incorrect API key provided: my-key"}'
    with CompletionsServer(tiny_tokenizer, failures=[status] * 99, body=body).serve() as server:
        url = server.url.replace("://", "://me:pass@")
        engine = make_engine(server, base_url=url, api_key="my-key", retry_s=0.1)
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
    server = CompletionsServer(tiny_tokenizer, url=f"http://127.0.0.1:{port}")
    engine = make_engine(server, retry_s=0.3)
    with pytest.raises(RolloutError, match=r"no answer in \d+ attempts .*ConnectError.*\(\d+ times\).*base_url"):
        engine.sample(prompts[:2], settings=SETTINGS, seed=0)


def test_every_cause_is_told(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with (
        CompletionsServer(tiny_tokenizer, failures=[500, 429, 429], dies_after=3).serve() as server,
        pytest.raises(RolloutError) as caught,
    ):
        make_engine(server, concurrency=1, retry_s=2.0).sample(prompts[:1], settings=SETTINGS, seed=0)
    for cause in (r"HTTP 500.*\(1 times\)", r"HTTP 429.*\(2 times\)", r"(ConnectError|ReadError|RemoteProtocolError)"):
        assert re.search(cause, str(caught.value))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"body": b"<html>"}, "not JSON"),
        ({"body": b"[]"}, "without `choices`"),
        ({"body": b'{"choices": [1]}'}, "without `choices`"),
        ({"body": b'{"choices": [{}, {}, {}]}'}, "broken off"),
        ({"null_text": True, "returns_token_ids": False}, "neither token ids nor text.*text is None"),
        ({"drop_last_choice": True}, "2 completions for problem 'p0', expected 3"),
    ],
)
def test_other_formats_are_named(
    arguments: dict[str, Any], message: str, prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    with (
        CompletionsServer(tiny_tokenizer, **arguments).serve() as server,
        pytest.raises(RolloutError, match=message),
    ):
        make_engine(server, retry_s=0.1).sample(prompts[:1], settings=SETTINGS, seed=0)


def test_text_is_not_needed_beside_token_ids(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    with CompletionsServer(tiny_tokenizer).serve() as server:
        expected = make_engine(server).sample(prompts, settings=SETTINGS, seed=0)
    with CompletionsServer(tiny_tokenizer, null_text=True).serve() as server:
        assert make_engine(server).sample(prompts, settings=SETTINGS, seed=0) == expected


def test_what_keep_raises_ends_the_sampling(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    def keep(_: list[Completion]) -> None:
        raise KeyboardInterrupt

    with CompletionsServer(tiny_tokenizer).serve() as server, pytest.raises(KeyboardInterrupt):
        make_engine(server, concurrency=1).sample(prompts, settings=SETTINGS, seed=0, keep=keep)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_an_address_is_given_with_or_without_v1(url: str) -> None:
    assert server_root(url) == "http://h:1"
