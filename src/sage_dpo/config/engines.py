"""What samples completions: this process, or servers that hold the policy."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from sage_dpo.config.section import Section


def server_root(url: str) -> str:
    """Return a server's address without `/v1`."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _is_address(url: str) -> bool:
    """Whether a URL names a host, and holds nothing that a path cannot be put behind."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - checked when it is read
    except ValueError:
        return False
    return bool(parts.hostname) and url.isprintable() and not set(url) & set(" ?#")


class TransformersEngineSettings(Section):
    """Sample in this process, with the model that transformers loaded."""

    kind: Literal["transformers"] = Field("transformers", description="Which of the kinds.")
    batch_size: int = Field(256, ge=1, description="Completions decoded at a time.")


LOCAL_ENGINE = TransformersEngineSettings(batch_size=64)
"""For what is sampled in this process though servers sample the rollouts: evaluation, on the GPU that also trains."""


class _SyncSettings(Section):
    """What every way of handing over the policy needs."""

    folder: str | None = Field(
        None, description="Folder that the servers see under the same path; none is in the run's folder."
    )


class LoraSyncSettings(_SyncSettings):
    """Write the adapter and have vLLM load it (`--enable-lora`, `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`)."""

    kind: Literal["lora"] = Field(description="Which of the kinds.")


class ReloadSyncSettings(_SyncSettings):
    """Write all weights and have vLLM load them in place (`VLLM_SERVER_DEV_MODE=1`)."""

    kind: Literal["reload"] = Field(description="Which of the kinds.")


class RestartSyncSettings(_SyncSettings):
    """Write all weights and start the servers anew with a command, the last resort."""

    kind: Literal["restart"] = Field(description="Which of the kinds.")
    command: list[str] = Field(
        min_length=1,
        description="Program and arguments, run once for each server: stops it, and starts it in the background with "
        "the weights in `{folder}`; `{url}` is its address.",
    )
    start_timeout_s: float = Field(
        900.0, gt=0.0, description="Seconds within which the command must end, and then the server answer."
    )


SyncSettings = Annotated[LoraSyncSettings | ReloadSyncSettings | RestartSyncSettings, Field(discriminator="kind")]


class ServerEngineSettings(Section):
    """Sample from vLLM or SGLang: OpenAI-compatible completions endpoints that take and return token ids."""

    kind: Literal["server"] = Field(description="Which of the kinds.")
    base_url: str | list[str] = Field(
        description="As `http://localhost:8000/v1`; several share the requests and must hold the same policy."
    )
    model: str | None = Field(None, description="The policy's name there; none is the first that the server lists.")
    concurrency: int = Field(32, ge=1, description="Requests at a time, over all servers.")
    timeout_s: float = Field(
        600.0, gt=0.0, description="Deadline of one request, all its samples together, in seconds; then it is retried."
    )
    retry_s: float = Field(
        900.0, ge=0.0, description="Seconds for which a request is retried while servers are away or busy."
    )
    backoff_s: float = Field(
        1.0,
        gt=0.0,
        description="Pause before the first retry, in seconds; doubles up to 30, shortened at random by up to half. "
        "A server's `Retry-After` is kept to.",
    )
    health_s: float = Field(
        5.0,
        gt=0.0,
        description="Seconds between looks at `/health` while requests are under way; a server that misses three is "
        "away, and its requests are retried.",
    )
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key, if there is one.")
    encode_text: bool = Field(
        False,
        description="Take text where a server returns no token ids and encode it, which can differ from what was "
        "sampled; off, such a server is refused.",
    )
    sync: SyncSettings | None = Field(
        None, description="How the servers get the policy at each refresh; none is a fixed policy, without refreshes."
    )
    tolerance: float = Field(
        0.1,
        gt=0.0,
        description="Nats a token by which a server's log-probabilities of a few prompts may differ from ours on "
        "average before it counts as another policy.",
    )
    check_policy: bool = Field(
        False,
        description="Load the policy here too for the first pool, only to compare the servers with it. At a refresh "
        "they always are.",
    )

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, value: str | list[str]) -> str | list[str]:
        urls = [value] if isinstance(value, str) else value
        if not urls or len({server_root(url) for url in urls}) < len(urls):
            raise ValueError("must be an address, or a list of different ones (with and without /v1 is the same)")
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError("must begin with http:// or https://, as in http://localhost:8000/v1")
            if not _is_address(url):
                raise ValueError("must be a host, a port if needed and a path, as in http://localhost:8000/v1")
        return value

    @property
    def base_urls(self) -> list[str]:
        return [self.base_url] if isinstance(self.base_url, str) else self.base_url


EngineSettings = Annotated[TransformersEngineSettings | ServerEngineSettings, Field(discriminator="kind")]
