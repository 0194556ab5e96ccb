"""Rollouts from OpenAI-compatible `/v1/completions` endpoints that take and return token ids (vLLM, SGLang).

Start vLLM with `vllm serve MODEL --generation-config vllm`, so that it takes no sampling defaults from the model's
folder. One request a prompt, `n` samples, its own seed.

A prompt that a server cannot answer (longer than its context, or not answered while others are) is left out, counted in
`ServerEngine.exclusions` and logged; what concerns all prompts ends the sampling with an error. What was answered until
then has been handed to `keep`.

Determinism is the server's: vLLM seeds sample i of a request with `seed + i`, but its batched kernels round by load,
so that a rerun may differ in rare tokens.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from sage_dpo.config import ServerEngineSettings
from sage_dpo.errors import ConfigError, RolloutError
from sage_dpo.records import Completion
from sage_dpo.rollouts.answers import AnswerReader, LeftOutError
from sage_dpo.rollouts.client import Client
from sage_dpo.rollouts.endpoint import Endpoint, RefusedError, UnansweredError, check_key, import_client
from sage_dpo.rollouts.engine import Keep, NothingSampledError, RolloutPrompt, SamplingParams, check_request

if TYPE_CHECKING:
    from anyio import CancelScope
    from transformers import PreTrainedTokenizerBase

    from sage_dpo.rollouts.fingerprint import Fingerprints
    from sage_dpo.rollouts.handover import Handover

_logger = logging.getLogger(__name__)
_TOO_LONG = re.compile(r"context.?(length|size|window)|max_model_len|max_total_tokens|too long", re.IGNORECASE)
TOO_LONG = "prompt and max_new_tokens beyond the server's context length"
UNANSWERED = "prompt not answered while others were"


class ServerEngine:
    """Samples from servers (see `RolloutEngine`), which hold the policy.

    Args:
        settings: addresses, deadlines, retries; `rollouts.engine` of a recipe.
        tokenizer: of the policy; decodes ids.
        api_key: sent as bearer token if given.
        model: the policy as it is now, to compare the servers with; `None` compares with nothing.
        handover: how the servers get `model` before it samples; `None` where they hold it already.

    Attributes:
        counts: `requests`, `retries`, `reencoded` (completions encoded from text), `eos_appended`.
        exclusions: prompts that got no completions, by reason.

    Raises:
        ConfigError: no end-of-sequence token, a key that cannot be sent, or the client's package is not installed.
        RolloutError: no server can be reached for `retry_s`, one refuses a request or answers in another format.
        NothingSampledError: every prompt had to be left out.
    """

    def __init__(
        self,
        settings: ServerEngineSettings,
        tokenizer: PreTrainedTokenizerBase,
        *,
        api_key: str | None = None,
        model: Any = None,
        handover: Handover | None = None,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end-of-sequence token; set tokenizer.eos_token")
        import_client()
        check_key(api_key, settings.api_key_env)
        self.settings, self._api_key = settings, api_key
        self._model, self._handover = model, handover
        self._fingerprints: Fingerprints | None = None
        self.counts: Counter[str] = Counter()
        self.exclusions: Counter[str] = Counter()
        self._reader = AnswerReader(tokenizer, encode_text=settings.encode_text, counts=self.counts)

    def sample(
        self,
        prompts: Sequence[RolloutPrompt],
        *,
        settings: SamplingParams,
        seed: int,
        policy_version: int = 0,
        progress: bool = False,
        keep: Keep | None = None,
    ) -> list[Completion]:
        """Return completions ordered by prompt, then sample; see `RolloutEngine.sample`."""
        check_request(prompts, seed)
        if not prompts:
            return []
        from anyio.from_thread import start_blocking_portal

        self._measure(prompts, policy_version)
        answers: queue.SimpleQueue[tuple[RolloutPrompt, list[Completion] | str] | None] = queue.SimpleQueue()
        job = _Job(self, prompts, settings, seed, policy_version, answers)
        answered: dict[str, list[Completion]] = {}
        left_out: dict[str, str] = {}
        with (
            tqdm(total=len(prompts), desc="sampling", unit="prompt", disable=not progress) as progress_bar,
            start_blocking_portal() as portal,
        ):
            future = portal.start_task_soon(job.run)
            future.add_done_callback(lambda _: answers.put(None))
            try:
                while (item := answers.get()) is not None:
                    prompt, found = item
                    if isinstance(found, str):
                        left_out[prompt.problem_id] = found
                    else:
                        answered[prompt.problem_id] = found
                        if keep:
                            keep(found)
                    progress_bar.update()
                future.result()
            except BaseException:
                future.cancel()
                raise
        if job.failure is not None:
            told = f"{job.failure}; {len(answered)} of {len(prompts)} prompts had been answered"
            raise RolloutError(told) from None
        self._count(left_out, len(prompts))
        return [completion for prompt in prompts for completion in answered.get(prompt.problem_id, [])]

    def _measure(self, prompts: Sequence[RolloutPrompt], policy_version: int) -> None:
        """Write the policy for the servers, and note what they must answer when they hold it."""
        if self._handover is not None:
            self._handover.write(self._model, policy_version)
        if self._model is not None:
            from sage_dpo.rollouts.fingerprint import Fingerprints

            self._fingerprints = Fingerprints() if self._handover is None else self._handover.fingerprints
            self._fingerprints.measure(self._model, prompts)

    async def prepare(self, client: Client, endpoint: Endpoint) -> str:
        """Hand the policy to a server that has come up, check that it holds it, return its name there."""
        name = self.settings.model
        if self._handover is not None:
            name = await self._handover.load(client, endpoint, name)
        name = await greet(client, endpoint, name)
        if self._fingerprints is not None:
            await self._fingerprints.check(client, endpoint, name, self.settings.tolerance)
        return name

    def _count(self, left_out: dict[str, str], asked: int) -> None:
        reasons = Counter(left_out.values())
        self.exclusions.update(reasons)
        for reason, count in reasons.items():
            first = next(name for name, why in left_out.items() if why == reason)
            _logger.warning("%d of %d prompts left out, first %r: %s", count, asked, first, reason)
        if len(left_out) == asked:
            remedy = "raise the server's context length, or lower rollouts.max_new_tokens"
            remedy = remedy if TOO_LONG in reasons else "look at the server's log"
            raise NothingSampledError(f"all {asked} prompts were left out: {dict(reasons)}; {remedy}")


class _Job:
    """One call of `sample`, inside the event loop: a bounded number of workers share the prompts."""

    def __init__(
        self,
        engine: ServerEngine,
        prompts: Sequence[RolloutPrompt],
        settings: SamplingParams,
        seed: int,
        policy_version: int,
        answers: queue.SimpleQueue[tuple[RolloutPrompt, list[Completion] | str] | None],
    ) -> None:
        self._engine, self._settings, self._seed, self._policy_version = engine, settings, seed, policy_version
        self._prompts, self._waiting, self._answers = prompts, iter(prompts), answers
        self.failure: RolloutError | None = None

    async def run(self) -> None:
        import anyio

        engine = self._engine
        client = Client(engine.settings, engine._api_key, engine.prepare, engine.counts)
        async with client.connected(), anyio.create_task_group() as group:
            for _ in range(min(engine.settings.concurrency, len(self._prompts))):
                group.start_soon(self._work, client, self._waiting, group.cancel_scope)

    async def _work(self, client: Client, waiting: Iterator[RolloutPrompt], scope: CancelScope) -> None:
        for prompt in waiting:
            try:
                self._answers.put((prompt, await self._complete(client, prompt)))
            except LeftOutError as error:
                self._answers.put((prompt, str(error)))
            except RolloutError as error:
                self.failure = self.failure or error
                scope.cancel()
                return

    async def _complete(self, client: Client, prompt: RolloutPrompt) -> list[Completion]:
        def read(answer: Any, endpoint: Endpoint) -> list[Completion]:
            reader = self._engine._reader
            return reader.read(answer, prompt, self._settings, self._policy_version, endpoint.place)

        try:
            return await client.complete(self._body(prompt), read)
        except RefusedError as error:
            if error.status in (400, 413, 422) and _TOO_LONG.search(error.said):
                raise LeftOutError(TOO_LONG) from None
            raise RolloutError(
                f"{error.endpoint.place} refused the prompt of problem {prompt.problem_id!r} ({len(prompt.prompt_ids)} "
                f"tokens) with {error}; check that it takes prompts of token ids (vLLM and SGLang do, `transformers "
                f"serve` does not), rollouts.engine.base_url, the model's name {error.endpoint.model!r} and "
                f"{client.key_told}"
            ) from None
        except UnansweredError as error:
            if error.is_alone:
                _logger.warning("problem %r: %s", prompt.problem_id, error)
                raise LeftOutError(UNANSWERED) from None
            raise RolloutError(
                f"{error}; check that the server runs, that rollouts.engine.base_url is right and that "
                "rollouts.engine.retry_s and timeout_s are long enough"
            ) from None

    def _body(self, prompt: RolloutPrompt) -> dict[str, Any]:
        settings = self._settings
        return {
            "prompt": list(prompt.prompt_ids),
            "n": settings.samples // settings.copies,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": request_seed(self._seed, self._policy_version, prompt.problem_id),
            "return_token_ids": True,
            # Said explicitly, because servers fill what is left open from the model's own generation config.
            "top_p": settings.top_p,
            "top_k": settings.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }


async def greet(client: Client, endpoint: Endpoint, model: str | None) -> str:
    """Return the name of the model to ask for.

    Raises:
        RolloutError: the server lists its models, and this one is not among them; or it lists none and `model` is open.
    """
    try:
        answer = await client.call(endpoint, "/v1/models")
    except RefusedError as error:
        if error.status == 404 and model is not None:  # lists none; the first request will tell
            return model
        raise RolloutError(
            f"{endpoint.place}/v1/models was refused with {error}; check rollouts.engine.base_url and "
            f"{client.key_told}, and name rollouts.engine.model"
        ) from None
    listed = answer.get("data") if isinstance(answer, dict) else None
    names = [str(item.get("id")) for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    if model is None and names:
        return names[0]
    if model is None or (names and model not in names):
        raise RolloutError(
            f"{endpoint.place} serves {names or 'no model'}, expected {model or 'one'}; correct "
            "rollouts.engine.model, or start it with --served-model-name"
        )
    return model


def request_seed(seed: int, policy_version: int, problem_id: str) -> int:
    """Return the seed of one request, in [0, 2^31): servers differ in what else they accept."""
    digest = hashlib.sha256(f"{seed}/{policy_version}/{problem_id}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
