"""Servers that fail in ways of their own: dead for good, half there, redirecting, or answering in another form."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.completions_server import CompletionsServer

from sage_dpo.config import RolloutSettings, ServerEngineSettings
from sage_dpo.errors import ConfigError, RolloutError
from sage_dpo.records import Completion, Problem
from sage_dpo.rollouts import RolloutPrompt, SamplingParams, build_prompts
from sage_dpo.rollouts.build import sample_rollouts
from sage_dpo.rollouts.engine import NothingSampledError
from sage_dpo.rollouts.server import ServerEngine

SETTINGS = SamplingParams(samples=3, max_new_tokens=8)


@pytest.fixture
def prompts(tiny_tokenizer: Any) -> list[RolloutPrompt]:
    return build_prompts([Problem(f"p{i}", f"{i} + 1", "1") for i in range(6)], tiny_tokenizer)


def sample(
    prompts: list[RolloutPrompt], *servers: CompletionsServer, key: str | None = None, **engine: Any
) -> list[Completion]:
    given = {"base_url": [server.url for server in servers], "backoff_s": 0.01, "retry_s": 20.0, "health_s": 0.05}
    settings = ServerEngineSettings(kind="server", **{**given, **engine})
    made = ServerEngine(settings, servers[0].tokenizer, api_key=key)
    return made.sample(prompts, settings=SETTINGS, seed=0)


class Changed(CompletionsServer):
    """Its choices are changed by `change`, its list of models is `listed`."""

    change: Callable[[list[dict[str, Any]]], object] = staticmethod(lambda choices: None)
    listed: Any = None

    def answer(self, request: dict[str, Any]) -> tuple[int, Any]:
        status, answer = super().answer(request)
        self.change(answer["choices"])
        return status, answer

    def get(self, path: str) -> tuple[int, Any]:
        return (200, self.listed) if self.listed is not None and path == "/v1/models" else super().get(path)


def test_a_server_that_fails_for_good_is_not_taken_for_prompts_it_cannot_answer(
    prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    """Others were answered since each of them was first asked, but none is any more."""
    asked: set[tuple[int, ...]] = set()
    everyone = threading.Event()

    class Failing(CompletionsServer):
        def answer(self, request: dict[str, Any]) -> tuple[int, Any]:
            asked.add(tuple(request["prompt"]))
            if len(asked) == len(prompts):
                everyone.set()
            if request["prompt"] != list(prompts[0].prompt_ids):
                return 503, {}
            everyone.wait(20)
            return super().answer(request)

    with (
        Failing(tiny_tokenizer).serve() as server,
        pytest.raises(RolloutError, match=r"no answer in .*HTTP 503.*; [01] of 6 prompts had been answered"),
    ):
        sample(prompts, server, retry_s=1.0)


def test_an_attempt_that_lacks_only_what_was_left_out_is_complete(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """As after a kill while the completions were verified."""
    problems = [Problem("short", "1 + 1", "2"), Problem("long", " ".join(["2 +"] * 30), "1")]
    with CompletionsServer(tiny_tokenizer, context=40).serve() as server:
        engine = ServerEngineSettings(kind="server", base_url=server.url)
        rollouts = RolloutSettings(engine=engine, samples=2, max_new_tokens=8)

        def attempt(problems: list[Problem], journal: Path | None) -> list[Completion]:
            found = sample_rollouts(problems, rollouts, model=None, tokenizer=tiny_tokenizer, seed=0, journal=journal)
            return found[0]

        first = attempt(problems, tmp_path / "j")
        assert [completion.problem_id for completion in first] == ["short", "short"]
        assert attempt(problems, tmp_path / "j") == first
        with pytest.raises(
            NothingSampledError, match=r"all 1 prompts were left out.*raise the server's context length"
        ):
            attempt(problems[1:], None)


def test_one_request_finds_out_for_all_that_a_server_is_away(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    """Where nothing answers, each would otherwise wait for its own connection to time out, one after the other."""
    greeted: list[str] = []

    class Away(CompletionsServer):
        def get(self, path: str) -> tuple[int, Any]:
            if path == "/v1/models":
                greeted.append(path)
                time.sleep(0.1)
                return 503, {}
            return super().get(path)

    with Away(tiny_tokenizer, is_well=False).serve() as away, CompletionsServer(tiny_tokenizer).serve() as other:
        assert len(sample(prompts, away, other)) == 18
    assert len(greeted) == 1
    assert not away.requests


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("secret\n", "number 7 of 7"),
        (" secret", "number 1 of 7"),
        ("sécret", "number 2 of 6"),
        ("a b", "number 2 of 3"),
    ],
)
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    key: str, told: str, prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    with pytest.raises(ConfigError, match=f"the API key in OPENAI_API_KEY has a character .*{told}") as caught:
        sample(prompts, CompletionsServer(tiny_tokenizer, url="http://127.0.0.1:1"), key=key)
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize(
    ("faults", "key", "message"),
    [
        ({"failures": [401]}, None, r"HTTP 401.*the API key \(OPENAI_API_KEY is not set\)"),
        ({"failures": [403]}, "k", r"HTTP 403.*the API key \(OPENAI_API_KEY is set\)"),
        (
            {"failures": [308], "location": "https://h/v1"},
            None,
            r"HTTP 308: redirects to https://h/v1.*engine\.base_url",
        ),
    ],
)
def test_what_to_mend_is_named(
    faults: dict[str, Any], key: str | None, message: str, prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    with CompletionsServer(tiny_tokenizer, **faults).serve() as server, pytest.raises(RolloutError, match=message):
        sample(prompts[:1], server, key=key)


def _set(name: str, *values: Any) -> Callable[[list[dict[str, Any]]], object]:
    return lambda choices: [choice.update({name: value}) for choice, value in zip(choices, values, strict=True)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("index", 0, 1, 1), r"numbers the completions of problem 'p0' \[0, 1, 1\], expected `index` 0 to 2"),
        (_set("index", 1, 2, 3), r"\[1, 2, 3\], expected `index` 0 to 2"),
        (_set("index", "0", "1", 2), r"\['0', '1', 2\], expected `index`"),
        (_set("index", None, [], {}), r"\[None, \[\], \{\}\], expected `index`"),
        (_set("token_ids", [True], [True], [True]), r"token_ids for problem 'p0' that are no ids: \[True\]"),
        (_set("token_ids", [2**31], [1.5], ["1"]), r"that are no ids: "),
        (
            _set("finish_reason", *3 * [["stop"]]),
            r"all 1 prompts were left out: .*\['stop'\].*look at the server's log",
        ),
    ],
)
def test_choices_in_another_form_are_named(
    change: Callable[[list[dict[str, Any]]], object], message: str, prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    server = Changed(tiny_tokenizer)
    server.change = change  # type: ignore[method-assign]
    with server.serve(), pytest.raises(RolloutError, match=message):
        sample(prompts[:1], server)


@pytest.mark.parametrize("returns_token_ids", [True, False])
def test_half_of_a_letter_at_the_end_is_no_other_tokenizer(
    returns_token_ids: bool, prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    def cut(choices: list[dict[str, Any]]) -> None:
        for choice in choices:
            choice["text"] += "\ud83d"

    server = Changed(tiny_tokenizer, returns_token_ids=returns_token_ids)
    with CompletionsServer(tiny_tokenizer).serve() as plain:
        expected = sample(prompts, plain)
    server.change = cut  # type: ignore[method-assign]
    with server.serve():
        assert sample(prompts, server, encode_text=True) == expected


@pytest.mark.parametrize("listed", [{"data": 5}, {"data": {"id": "x"}}, {"data": [1]}, [], 7])
def test_a_list_of_models_in_another_form_lists_none(
    listed: Any, prompts: list[RolloutPrompt], tiny_tokenizer: Any
) -> None:
    server = Changed(tiny_tokenizer)
    server.listed = listed
    with server.serve():
        assert len(sample(prompts, server, model="tiny")) == 18
        with pytest.raises(RolloutError, match="serves no model, expected one"):
            sample(prompts, server)
