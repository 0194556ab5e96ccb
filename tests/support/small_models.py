"""A small random model of every architecture that transformers knows."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

WITH_WINDOWS = ("cohere2", "gemma2", "gemma3_text", "gpt_oss", "mistral")
SMALL = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "query_pre_attn_scalar": 8,
}


def make_small(model_type: str, attention: str):
    default = AutoConfig.for_model(model_type)
    sizes = {"pad_token_id": 0} | {
        name: value for name, value in SMALL.items() if getattr(default, name, None) is not None
    }
    if "sliding_attention" not in (getattr(default, "layer_types", None) or []):
        sizes.pop("layer_types", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **sizes)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # contexts matter, so that seeing another's would show
    return model
