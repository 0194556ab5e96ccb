"""Rollouts from an OpenAI-compatible `/v1/completions` endpoint that takes token-id prompts (vLLM, SGLang).

Start vLLM with `vllm serve MODEL --generation-config vllm`, so that it takes no sampling defaults from the model's
folder. One request a prompt, `n` samples, its own seed. Token ids come back where the server knows `return_token_ids`
(vLLM >= 0.10.2); otherwise the text is encoded again, which can split words differently from how the policy sampled
them: this is logged once and counted in `ServerEngine.counts`.

Determinism is the server's: vLLM seeds sample i of a request with `seed + i`, but its batched kernels round by load,
so that a rerun may differ in rare tokens. `httpx2` is the client that huggingface_hub itself uses.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from sage_dpo.config import redact_text
from sage_dpo.errors import ConfigError, RolloutError
from sage_dpo.records import Completion, FinishReason
from sage_dpo.rollouts.engine import Keep, RolloutPrompt, SamplingParams, check_request

if TYPE_CHECKING:
    import httpx2
    from transformers import PreTrainedTokenizerBase

_logger = logging.getLogger(__name__)
_TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504}


class ServerEngine:
    """Samples from a server (see `RolloutEngine`). The server's weights are fixed: it cannot follow a training policy.

    Args:
        base_url: with or without `/v1`, for example `http://127.0.0.1:8000/v1`.
        model: name the server gives its model.
        tokenizer: of the same model; decodes ids, and encodes text where the server returns no ids.
        concurrency: requests under way at once.
        timeout_s: for one request, all its samples together.
        api_key: sent as bearer token if given.
        max_retries: further attempts after a refused connection, a timeout or a busy server.
        backoff_s: pause before the first retry; doubles with each.

    Attributes:
        counts: `requests`, `retries`, `reencoded` (completions encoded from text), `eos_appended`.

    Raises:
        RolloutError: the server cannot be reached, refuses a request, or answers in another format.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        concurrency: int = 32,
        timeout_s: float = 600.0,
        api_key: str | None = None,
        max_retries: int = 4,
        backoff_s: float = 0.5,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end-of-sequence token; set tokenizer.eos_token")
        root = base_url.rstrip("/")
        self.url = f"{root if root.endswith('/v1') else root + '/v1'}/completions"
        self.model, self.tokenizer = model, tokenizer
        self.concurrency, self.timeout_s = concurrency, timeout_s
        self.max_retries, self.backoff_s = max_retries, backoff_s
        self.counts: Counter[str] = Counter()
        self._place, self._api_key = redact_text(self.url), api_key  # a URL may hold a login
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

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
        httpx = _import_client()
        limits = httpx.Limits(max_connections=self.concurrency)
        with (
            httpx.Client(timeout=self.timeout_s, headers=self._headers, limits=limits) as client,
            ThreadPoolExecutor(self.concurrency) as threads,
            tqdm(total=len(prompts), desc="sampling", unit="prompt", disable=not progress) as progress_bar,
        ):
            bodies = [self._body(prompt, settings, seed, policy_version) for prompt in prompts]
            futures = {
                threads.submit(self._post, client, prompt, body): prompt
                for prompt, body in zip(prompts, bodies, strict=True)
            }
            answered: dict[str, list[Completion]] = {}
            try:
                for future in as_completed(futures):
                    prompt, (answer, attempts) = futures[future], future.result()
                    self.counts.update(requests=attempts, retries=attempts - 1)
                    choices = _choices(answer, prompt, settings)
                    answered[prompt.problem_id] = [
                        self._completion(prompt, sample, choice, policy_version)
                        for sample, choice in enumerate(choices)
                    ]
                    if keep:
                        keep(answered[prompt.problem_id])
                    progress_bar.update()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return [completion for prompt in prompts for completion in answered[prompt.problem_id]]

    def _body(self, prompt: RolloutPrompt, settings: SamplingParams, seed: int, policy_version: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": list(prompt.prompt_ids),
            "n": settings.samples // settings.copies,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": request_seed(seed, policy_version, prompt.problem_id),
            "return_token_ids": True,
            # Said explicitly, because servers fill what is left open from the model's own generation config.
            "top_p": settings.top_p,
            "top_k": settings.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }

    def _post(self, client: httpx2.Client, prompt: RolloutPrompt, body: dict[str, Any]) -> tuple[Any, int]:
        """Post one request, again after a transient failure; return the parsed answer and the number of attempts."""
        httpx = _import_client()
        reason = ""
        for attempt in range(self.max_retries + 1):
            if attempt:
                time.sleep(self.backoff_s * 2 ** (attempt - 1))
            try:
                response = client.post(self.url, json=body)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {self._quote(str(error))}"
                continue
            if response.status_code in _TRANSIENT:
                reason = f"HTTP {response.status_code}: {self._quote(response.text)}"
                continue
            if response.status_code != 200:
                said = "(its answer is not shown)" if response.status_code in (401, 403) else self._quote(response.text)
                raise RolloutError(
                    f"{self._place} refused the prompt of problem {prompt.problem_id!r} ({len(prompt.prompt_ids)} "
                    f"tokens) with HTTP {response.status_code}: {said!r}; check the model name {self.model!r}, "
                    "the API key, and that the server's context length holds prompt + max_new_tokens"
                )
            try:
                return response.json(), attempt + 1
            except ValueError:
                raise RolloutError(
                    f"{self._place} answered with text that is not JSON: {self._quote(response.text)!r}; is this an "
                    "OpenAI-compatible completions endpoint?"
                ) from None
        raise RolloutError(
            f"{self._place} did not answer in {self.max_retries + 1} attempts ({reason}); check that the server runs, "
            "that rollouts.engine.base_url is right and that rollouts.engine.timeout_s is long enough"
        )

    def _quote(self, text: str) -> str:
        """The beginning of a server's answer, which may repeat the key that it was sent."""
        return redact_text(text[:300], self._api_key)

    def _completion(
        self, prompt: RolloutPrompt, sample: int, choice: Mapping[str, Any], policy_version: int
    ) -> Completion:
        is_cut = choice.get("finish_reason") == "length"
        ids = choice.get("token_ids")
        if ids is None:
            if not self.counts["reencoded"]:
                _logger.warning(
                    "%s returns no token ids; encoding its text instead, which may differ from the sampled tokens. "
                    "Use a server that supports return_token_ids (vLLM >= 0.10.2)",
                    self._place,
                )
            self.counts["reencoded"] += 1
            ids = self.tokenizer.encode(choice["text"], add_special_tokens=False)
        ids = list(ids)
        if not is_cut and (not ids or ids[-1] not in self.tokenizer.all_special_ids):
            self.counts["eos_appended"] += 1
            ids.append(self.tokenizer.eos_token_id)
        return Completion(
            problem_id=prompt.problem_id,
            sample=sample,
            text=str(self.tokenizer.decode(ids, skip_special_tokens=True)),
            prompt_ids=prompt.prompt_ids,
            token_ids=tuple(ids),
            finish_reason=FinishReason.LENGTH if is_cut else FinishReason.STOP,
            policy_version=policy_version,
        )


def request_seed(seed: int, policy_version: int, problem_id: str) -> int:
    """Return the seed of one request, in [0, 2^31): servers differ in what else they accept."""
    digest = hashlib.sha256(f"{seed}/{policy_version}/{problem_id}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def _choices(answer: Any, prompt: RolloutPrompt, settings: SamplingParams) -> list[Mapping[str, Any]]:
    """Return the answer's choices in order; a greedy request asks for one, which is repeated here."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or any("text" not in choice for choice in choices):
        raise RolloutError(
            f"the server answered problem {prompt.problem_id!r} without `choices`: {str(answer)[:200]!r}"
        )
    choices = sorted(choices, key=lambda choice: choice.get("index", 0))
    if len(choices) * settings.copies != settings.samples:
        raise RolloutError(
            f"the server returned {len(choices)} completions for problem {prompt.problem_id!r}, expected "
            f"{settings.samples // settings.copies}; does it support `n`?"
        )
    return choices * settings.copies


def _import_client() -> Any:
    try:
        import httpx2
    except ImportError:
        raise ConfigError(
            "the server engine needs the package httpx2; install it with `pip install 'sage-dpo[vllm]'`"
        ) from None
    return httpx2
