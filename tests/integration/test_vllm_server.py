"""A real vLLM on the CPU (`scripts/vllm_cpu_environment.sh`): sampling, following the policy, being killed.

SAGE_DPO_VLLM=FOLDER/bin/vllm pytest -m vllm tests/integration/test_vllm_server.py
"""

from __future__ import annotations

import copy
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from sage_dpo.config import PolicySettings, ServerEngineSettings, validate
from sage_dpo.errors import RolloutError
from sage_dpo.pipeline.policies import load_tokenizer
from sage_dpo.records import Completion, FinishReason, Problem
from sage_dpo.rollouts import SamplingParams, build_prompts
from sage_dpo.rollouts.handover import Handover
from sage_dpo.rollouts.server import ServerEngine

VLLM = os.environ.get("SAGE_DPO_VLLM", "")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not VLLM, reason="SAGE_DPO_VLLM names no vllm program; scripts/vllm_cpu_environment.sh makes one"
    ),
]
CONTEXT, START_S = 256, 900
SETTINGS = SamplingParams(samples=4, max_new_tokens=48)


class VLLMServer:
    """`vllm serve` with adapters and the development endpoints, on one thread."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url, self.folder = f"http://127.0.0.1:{self.port}", folder
        self.log = folder.parent / "vllm.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        cache = str(self.folder.parent / "cache")
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": cache, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        }  # fmt: skip
        environment.pop("PYTHONPATH", None)
        command = [
            VLLM, "serve", str(self.folder), "--served-model-name", "policy", "--host", "127.0.0.1",
            "--port", str(self.port), "--dtype", "float32", "--max-model-len", str(CONTEXT),
            "--generation-config", "vllm", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192",
            "--enable-lora", "--max-lora-rank", "16", "--enforce-eager",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            try:
                if httpx2.get(f"{self.url}/health", timeout=5.0).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(1.0)
        raise AssertionError(f"vLLM did not start within {START_S} s: {self.log.read_text()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Signal all of its processes, and wait for the first."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, how)
            self.process.wait(120)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(PolicySettings(path="gym:S"))


@pytest.fixture(scope="module")
def policy(tokenizer: Any) -> Any:
    """Llama-shaped with heads of 64: vLLM's attention on the CPU has none as small as the gym's."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def server(policy: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    folder = tmp_path_factory.mktemp("vllm") / "policy"
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    server = VLLMServer(folder)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder.parent / "cache", ignore_errors=True)


def prompts(tokenizer: Any, count: int = 8) -> Any:
    return build_prompts([Problem(f"p{i}", f"Tom has {i} apples + {i} ?", "1") for i in range(count)], tokenizer)


def engine(
    server: VLLMServer, tokenizer: Any, *, model: Any = None, handover: Any = None, **given: Any
) -> ServerEngine:
    settings = {"kind": "server", "base_url": server.url, "timeout_s": 120.0, "health_s": 1.0, **given}
    return ServerEngine(validate(ServerEngineSettings, settings), tokenizer, model=model, handover=handover)


def moved(model: Any, scale: float) -> Any:
    changed, generator = copy.deepcopy(model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in changed.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=generator)
    return changed


def test_completions_are_those_of_the_policy(server: VLLMServer, policy: Any, tokenizer: Any) -> None:
    """The policy is compared first, at a tolerance of rounding; the same seed gives the same completions."""
    sampler = engine(server, tokenizer, model=policy, tolerance=1e-4)
    first = sampler.sample(prompts(tokenizer), settings=SETTINGS, seed=1)
    assert len(first) == 32
    assert {c.finish_reason for c in first} <= set(FinishReason)
    for completion in first:
        is_stopped = completion.finish_reason is FinishReason.STOP
        assert (completion.token_ids[-1] == tokenizer.eos_token_id) == is_stopped
        assert is_stopped or len(completion.token_ids) == 48
    assert engine(server, tokenizer).sample(prompts(tokenizer), settings=SETTINGS, seed=1) == first
    assert sampler.counts["reencoded"] == sampler.counts["eos_appended"] == 0


def test_another_policy_is_refused(server: VLLMServer, policy: Any, tokenizer: Any) -> None:
    with pytest.raises(RolloutError, match="holds another policy"):
        engine(server, tokenizer, model=moved(policy, 0.05)).sample(prompts(tokenizer), settings=SETTINGS, seed=1)


def test_a_prompt_beyond_the_context_is_left_out(server: VLLMServer, tokenizer: Any) -> None:
    long = build_prompts([Problem("long", "1 + " * CONTEXT, "1"), Problem("short", "1 + 1", "2")], tokenizer)
    sampler = engine(server, tokenizer)
    assert {c.problem_id for c in sampler.sample(long, settings=SETTINGS, seed=1)} == {"short"}
    assert sampler.exclusions.total() == 1


@pytest.mark.parametrize("kind", ["lora", "reload"])
def test_the_server_follows_the_policy(
    kind: str, server: VLLMServer, policy: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """Two refreshes, and back to the untuned policy; every version is checked at a tolerance of rounding."""
    start = policy
    if kind == "lora":
        adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        start = get_peft_model(copy.deepcopy(policy), adapter).eval()
    settings = validate(
        ServerEngineSettings,
        {"kind": "server", "base_url": server.url, "model": "policy", "sync": {"kind": kind}, "tolerance": 1e-4},
    )
    assert settings.sync is not None
    handover = Handover(settings.sync, tokenizer, untuned=str(server.folder), folder=lambda v: tmp_path / f"v{v}")
    texts = []
    for version, model in ((1, moved(start, 0.05)), (2, moved(start, 0.1)), (0, start)):
        sampler = ServerEngine(settings, tokenizer, model=model, handover=handover)
        found = sampler.sample(prompts(tokenizer), settings=SETTINGS, seed=1, policy_version=version)
        assert {c.policy_version for c in found} == {version}
        texts.append([c.text for c in found])
    assert texts[0] != texts[1] != texts[2]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_a_server_that_is_killed_and_started_anew_goes_on(
    how: signal.Signals, server: VLLMServer, policy: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """What was received before is kept; the adapter, which the new server has not got, is loaded again."""
    asked = prompts(tokenizer, 40)
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = moved(get_peft_model(copy.deepcopy(policy), adapter).eval(), 0.05)
    settings = validate(
        ServerEngineSettings,
        {
            "kind": "server",
            "base_url": server.url,
            "model": "policy",
            "sync": {"kind": "lora"},
            "concurrency": 4,
            "health_s": 1.0,
            "timeout_s": 600.0,
            "tolerance": 1e-4,
        },
    )
    assert settings.sync is not None
    handover = Handover(settings.sync, tokenizer, untuned=str(server.folder), folder=lambda v: tmp_path / f"v{v}")
    kept: list[Completion] = []
    restarts: list[threading.Thread] = []

    def restart() -> None:
        server.stop(how)
        server.start()

    def keep(completions: list[Completion]) -> None:
        kept.extend(completions)
        if len(kept) == 6 * SETTINGS.samples:
            restarts.append(threading.Thread(target=restart))
            restarts[0].start()

    sampler = ServerEngine(settings, tokenizer, model=adapted, handover=handover)
    found = sampler.sample(asked, settings=SETTINGS, seed=2, policy_version=1, keep=keep)
    restarts[0].join()
    assert len(found) == len(kept) == 40 * SETTINGS.samples
    assert len({(c.problem_id, c.sample) for c in kept}) == len(kept)
    assert sampler.counts["retries"] >= 1
