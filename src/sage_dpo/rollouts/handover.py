"""The policy on its way to the servers: written to a folder, loaded by their own means.

    lora      the adapter, by `/v1/load_lora_adapter`, under a name that holds its hash
    reload    all weights, by `/collective_rpc` with `reload_weights`, and the prefix cache emptied
    restart   all weights, by a command of the user's that starts the server anew

A server that was away is handed the policy again, as it may have come back with the one it was started with.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dpo.config import LoraSyncSettings, ReloadSyncSettings, RestartSyncSettings, SyncSettings
from sage_dpo.errors import ConfigError, RolloutError
from sage_dpo.rollouts.client import Client
from sage_dpo.rollouts.endpoint import Endpoint, RefusedError, TransientError
from sage_dpo.rollouts.fingerprint import Fingerprints

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Handover:
    """Hands each version of a policy to the servers. One object for all refreshes of an arm.

    Args:
        sync: how servers load it.
        tokenizer: written beside all weights.
        untuned: folder or hub id of version 0, as the servers can load it.
        folder: where a version is written; seen by the servers under the same path.

    Attributes:
        fingerprints: of the versions handed over so far.
    """

    def __init__(
        self, sync: SyncSettings, tokenizer: PreTrainedTokenizerBase, *, untuned: str, folder: Callable[[int], Path]
    ) -> None:
        self.sync, self.fingerprints = sync, Fingerprints()
        self._tokenizer, self._untuned, self._folder = tokenizer, untuned, folder
        self._source, self._name = "", ""
        self._loaded: dict[str, str] = {}

    def write(self, model: Any, version: int) -> None:
        """Write a version for the servers to load; the untuned policy is where it is.

        Raises:
            ConfigError: an adapter that cannot be written the way the servers load it.
        """
        self._source, self._name = self._untuned, ""
        if version == 0:
            return
        from accelerate.utils import extract_model_from_parallel

        folder = self._folder(version).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        plain = extract_model_from_parallel(model)
        if isinstance(self.sync, LoraSyncSettings):
            plain.save_pretrained(folder)
            weights = folder / "adapter_model.safetensors"
            if not weights.is_file():
                raise ConfigError("rollouts.engine.sync.kind is lora, but the policy has no adapter; set it to reload")
            self._name = f"policy-{version}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:16]}"
        else:
            save_merged(plain, folder)
            self._tokenizer.save_pretrained(folder)
        self._source = str(folder)

    def clear(self, version: int) -> None:
        """Delete what was written for a version."""
        if version:
            shutil.rmtree(self._folder(version), ignore_errors=True)

    async def load(self, client: Client, endpoint: Endpoint, model: str | None) -> str | None:
        """Have a server load the version written last; return the name to ask for, `None` if it is open.

        Raises:
            RolloutError: the server cannot load it.
            TransientError: it is away.
        """
        if isinstance(self.sync, LoraSyncSettings):
            return await self._load_adapter(client, endpoint) if self._name else model
        if isinstance(self.sync, ReloadSyncSettings):
            await self._reload(client, endpoint)
        else:
            await self._restart(client, endpoint, self.sync)
        return model

    async def _load_adapter(self, client: Client, endpoint: Endpoint) -> str:
        body = {"lora_name": self._name, "lora_path": self._source}
        try:
            await client.call(endpoint, "/v1/load_lora_adapter", body, is_read=False)
        except RefusedError as error:
            if error.status in (404, 405) and "adapter" not in error.said:
                raise RolloutError(
                    f"{endpoint.place} loads no adapters ({error}); start vLLM with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, or set rollouts.engine.sync.kind to reload"
                ) from None
            if "already been loaded" not in error.said:  # its name holds its hash: loaded means this one
                raise _not_loaded(endpoint, self._source, error) from None
        except TransientError as error:
            raise (error if error.is_away else _not_loaded(endpoint, self._source, error)) from None
        before = self._loaded.get(endpoint.root)
        self._loaded[endpoint.root] = self._name
        if before not in (None, self._name):
            with contextlib.suppress(RefusedError, TransientError):  # started anew since, it has not got it
                await client.call(endpoint, "/v1/unload_lora_adapter", {"lora_name": before}, is_read=False)
        return self._name

    async def _reload(self, client: Client, endpoint: Endpoint) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": self._source}}
        try:
            await client.call(endpoint, "/collective_rpc", body, is_read=False)
            await client.call(endpoint, "/reset_prefix_cache", {}, is_read=False)
        except RefusedError as error:
            raise RolloutError(
                f"{endpoint.place} reloads no weights ({error}); start vLLM with VLLM_SERVER_DEV_MODE=1, or set "
                "rollouts.engine.sync.kind to restart"
            ) from None
        except TransientError as error:
            raise (error if error.is_away else _not_loaded(endpoint, self._source, error)) from None

    async def _restart(self, client: Client, endpoint: Endpoint, sync: RestartSyncSettings) -> None:
        import anyio

        command = [part.replace("{folder}", self._source).replace("{url}", endpoint.root) for part in sync.command]
        done = None
        try:
            with anyio.move_on_after(sync.start_timeout_s):
                done = await anyio.run_process(
                    command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
                )
        except OSError as error:
            raise RolloutError(f"rollouts.engine.sync.command cannot be run: {error}") from None
        if done is None:
            raise RolloutError(
                f"rollouts.engine.sync.command ({command[0]}) did not end within {sync.start_timeout_s:g} s; it must "
                "start the server in the background and end, or raise rollouts.engine.sync.start_timeout_s"
            )
        if done.returncode:
            raise RolloutError(
                f"rollouts.engine.sync.command ({command[0]}) ended with status {done.returncode}, expected 0; run it "
                "by hand to see why"  # its arguments may hold a key
            )
        deadline = time.monotonic() + sync.start_timeout_s
        while True:
            try:
                await client.call(endpoint, "/v1/models", deadline_s=30.0)
                return
            except (TransientError, RefusedError) as error:
                if time.monotonic() > deadline:
                    raise RolloutError(
                        f"{endpoint.place} does not answer {sync.start_timeout_s:g} s after it was started anew "
                        f"({error}); look at its log, or raise rollouts.engine.sync.start_timeout_s"
                    ) from None
            await anyio.sleep(min(client.settings.health_s, 5.0))


def save_merged(model: Any, folder: Path) -> None:
    """Save all weights, those of LoRA adapters added to the layers they adapt; the model is left as it is.

    Raises:
        ConfigError: adapters of another kind than LoRA, which are not added here.
    """
    state, base = model.state_dict(), model
    if hasattr(model, "peft_config"):
        from peft.tuners.lora import LoraLayer

        if any(
            str(getattr(kind, "value", kind)) != "LORA" for kind in (c.peft_type for c in model.peft_config.values())
        ):
            raise ConfigError("a policy with adapters other than LoRA cannot be handed to a server; use lora")
        base = model.get_base_model()
        state = {name: value for name, value in base.state_dict().items() if ".lora_" not in name}
        for path, layer in base.named_modules():
            if isinstance(layer, LoraLayer):
                name = f"{path}.base_layer.weight"
                for adapter in layer.active_adapters:
                    delta: torch.Tensor = layer.get_delta_weight(adapter)  # type: ignore[attr-defined]
                    state[name] = state[name] + delta.to(state[name])
        state = {name.replace(".base_layer.", "."): value for name, value in state.items()}
    base.save_pretrained(folder, state_dict=state)


def _not_loaded(endpoint: Endpoint, source: str, error: Exception) -> RolloutError:
    return RolloutError(
        f"{endpoint.place} could not load {source}: {error}; the server must see that folder under the same path "
        "(rollouts.engine.sync.folder), and hold the same kind of model (for adapters: --max-lora-rank)"
    )
