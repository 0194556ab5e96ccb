"""The model, the device and its measured peak, which the GPU benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import is_flash_attn_2_available

from sage_dpo.forward import TokenizedCompletion
from sage_dpo.planning.cost import Sequences, inference_flops
from sage_dpo.planning.shape import ModelShape

QWEN2_1_5B = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}
"""Source: config.json of Qwen/Qwen2.5-1.5B."""
TOY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Setup:
    """Where and on what the benchmarks run.

    Attributes:
        device: `cuda` or `cpu`.
        name: of the device, for the table; says so if a toy model runs.
        shape: arguments of `Qwen2Config`.
        dtype: of the weights.
    """

    device: str
    name: str
    shape: dict[str, Any]
    dtype: torch.dtype

    @property
    def is_toy(self) -> bool:
        return self.device == "cpu"

    def aim(self, ratio: float) -> float | None:
        """Return what a claim aims at; nothing with a toy model."""
        return None if self.is_toy else ratio

    def make_model(self, attention: str = "sdpa", seed: int = 0) -> PreTrainedModel:
        """Return an untrained Qwen2 on the device."""
        torch.manual_seed(seed)
        config = Qwen2Config(**self.shape, pad_token_id=0, eos_token_id=1, bos_token_id=None, initializer_range=0.05)
        with torch.device(self.device):
            model = Qwen2ForCausalLM._from_config(config, dtype=self.dtype, attn_implementation=attention)
        return model.eval()

    def model_shape(self) -> ModelShape:
        with torch.device("meta"):
            parameters = Qwen2ForCausalLM(Qwen2Config(**self.shape)).num_parameters()
        head_width = self.shape["hidden_size"] // self.shape["num_attention_heads"]
        return ModelShape(
            parameters=parameters,
            layers=self.shape["num_hidden_layers"],
            hidden=self.shape["hidden_size"],
            query_width=self.shape["hidden_size"],
            kv_width=head_width * self.shape["num_key_value_heads"],
            vocabulary=self.shape["vocab_size"],
            tied=True,
        )


def find_setup() -> Setup:
    """Return the GPU with the 1.5B shape, or the CPU with a toy model."""
    if torch.cuda.is_available():
        return Setup("cuda", torch.cuda.get_device_name(), QWEN2_1_5B, torch.bfloat16)
    return Setup("cpu", "CPU, toy model", TOY, torch.float32)


def packing_attention() -> str:
    """Return the attention that runs sequences without padding: FlashAttention if installed, else FlexAttention."""
    return "flash_attention_2" if is_flash_attn_2_available() else "flex_attention"


def measured_peak(setup: Setup, repetitions: int = 20) -> float:
    """Return the operations per second of square matrix products in the model's precision, the fastest of a few."""
    size = 256 if setup.is_toy else 8192
    a, b = (torch.randn(size, size, device=setup.device, dtype=setup.dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repetitions):
        synchronize(setup)
        start = time.perf_counter()
        a @ b
        synchronize(setup)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def synchronize(setup: Setup) -> None:
    if setup.device == "cuda":
        torch.cuda.synchronize()


def scoring_flops(shape: ModelShape, completions: Iterable[TokenizedCompletion]) -> float:
    """Return the operations that scoring these takes: real tokens only, the head on completions only."""
    return sum(inference_flops(shape, Sequences(1, len(c.prompt_ids), len(c.completion_ids))) for c in completions)
