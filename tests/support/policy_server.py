"""A completions server that holds a real policy, and loads others by vLLM's means."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from tests.support.completions_server import CompletionsServer
from transformers import AutoModelForCausalLM

from sage_dpo.rollouts import RolloutPrompt, SamplingParams
from sage_dpo.rollouts.transformers import TransformersEngine


@dataclass
class PolicyServer(CompletionsServer):
    """Samples from `policy`, or from an adapter of it.

    Attributes:
        policy: what it was started with, under the first of `models`.
        is_deaf: says that it loads, and does not.
        loads_adapters, reloads: whether it was started with these means.
        adapters: loaded ones, by name.
        loaded: paths it was told to load, in order.
    """

    policy: Any = None
    is_deaf: bool = False
    loads_adapters: bool = True
    reloads: bool = True
    adapters: dict[str, Any] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def post(self, path: str, request: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            if path == "/v1/load_lora_adapter" and self.loads_adapters:
                return self._load_adapter(request["lora_name"], request["lora_path"])
            if path == "/v1/unload_lora_adapter" and self.loads_adapters:
                self.adapters.pop(request["lora_name"])
                self.models = [name for name in self.models or [] if name != request["lora_name"]]
                return 200, "Success"
            if path == "/collective_rpc" and self.reloads:
                return self._reload(request["kwargs"]["weights_path"])
            if path == "/reset_prefix_cache" and self.reloads:
                return 200, {}
            return super().post(path, request)

    def answer(self, request: dict[str, Any]) -> tuple[int, Any]:
        model = self.adapters.get(request["model"], self.policy)
        if "echo" in request:
            return 200, {
                "choices": [{"text": "", "logprobs": {"token_logprobs": self._echo(model, request["prompt"])}}]
            }
        status, answer = super().answer(request)
        if status == 200:
            answer["choices"] = self._sample(model, request)
        return status, answer

    def _sample(self, model: Any, request: dict[str, Any]) -> list[dict[str, Any]]:
        settings = SamplingParams(request["n"], request["temperature"], max_new_tokens=request["max_tokens"])
        prompt = RolloutPrompt("", tuple(request["prompt"]))
        engine = TransformersEngine(model, self.tokenizer)
        return [
            {"index": c.sample, "text": c.text, "token_ids": list(c.token_ids), "finish_reason": str(c.finish_reason)}
            for c in engine.sample([prompt], settings=settings, seed=request["seed"])
        ]

    def _echo(self, model: Any, prompt: list[int]) -> list[float | None]:
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([prompt])).logits[0].log_softmax(dim=-1)
        return [None, *(scores[t, token].item() for t, token in enumerate(prompt[1:])), -1.0]

    def _load_adapter(self, name: str, path: str) -> tuple[int, Any]:
        if name in self.adapters:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        self.loaded.append(path)
        base = copy.deepcopy(self.policy)
        self.adapters[name] = base if self.is_deaf else PeftModel.from_pretrained(base, path).eval()
        self.models = [*(self.models or []), name]
        return 200, "Success"

    def _reload(self, path: str) -> tuple[int, Any]:
        self.loaded.append(path)
        if not self.is_deaf:
            try:
                self.policy = AutoModelForCausalLM.from_pretrained(path).eval()
            except OSError:
                return 500, {"error": {"message": "Call to collective_rpc method failed"}}
        return 200, {"results": [None]}
