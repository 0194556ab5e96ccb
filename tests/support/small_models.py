"""A small random model of every architecture that transformers knows."""

from __future__ import annotations

from typing import Any

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
    "ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "decoder_layers": 2,
    "rotary_dim": 4,
    "window_size": 4,
    "state_size": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_SMALL_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_SMALL_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
    "mamba_n_groups": 1,
}
_SMALL_TEXT = {name: value for name, value in SMALL.items() if "expert" not in name}
_SMALL_VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
_SMALL_GEMMA4 = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 32, "global_head_dim": 16}
SHARED_KEYS = {
    **_SMALL_GEMMA4,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
"""Of Gemma 3n and 4: the last layers have no keys and values of their own."""
OF_A_TYPE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], **_SMALL_MAMBA},
    "deepseek_v2": {"num_key_value_heads": 4, "head_dim": 8, "num_experts_per_tok": 2},
    "deepseek_v3": {"num_key_value_heads": 4},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64, **_SMALL_MAMBA},
    "gemma3": {"text_config": _SMALL_TEXT, "vision_config": _SMALL_VISION},
    "gemma3n_text": {
        **{name: value for name, value in SHARED_KEYS.items() if name != "global_head_dim"},
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4": {
        "text_config": {**_SMALL_TEXT, **_SMALL_GEMMA4},
        "vision_config": {**_SMALL_VISION, "intermediate_size": 16, "num_key_value_heads": 2, "head_dim": 8},
    },
    "gemma4_text": {
        **_SMALL_GEMMA4,
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
    },
    "gemma4_unified": {"text_config": {**_SMALL_TEXT, **_SMALL_GEMMA4}, "vision_config": _SMALL_VISION},
    "gemma4_unified_text": _SMALL_GEMMA4,
    "glm4_moe_lite": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["local", "global"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32, **_SMALL_MAMBA},
    "hunyuan_v1_dense": {"num_key_value_heads": 2, "head_dim": 8},
    "hunyuan_v1_moe": {"num_key_value_heads": 2, "head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
    "kimi_linear": {
        "num_key_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse"],
        "linear_head_dim": 8,
        "linear_num_heads": 4,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"num_key_value_heads": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    "minicpm3": {"num_key_value_heads": 4},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "block_size": 16},
    "ministral": {"num_key_value_heads": 2, "head_dim": 8, "layer_types": SMALL["layer_types"]},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 1,
        "ssm_state_size": 8,
        "chunk_size": 16,
    },
    "olmo_hybrid": _SMALL_LINEAR,
    "qwen3_5_moe_text": _SMALL_LINEAR,
    "qwen3_5_text": _SMALL_LINEAR,
    "qwen3_next": _SMALL_LINEAR,
    "youtu": {"num_key_value_heads": 4},
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"],
        "num_key_value_heads": 4,
        "attention_head_dim": 16,
        "mamba_d_state": 8,
        "n_mamba_heads": 8,
        "chunk_size": 16,
    },
}
"""Sizes that do not go by `SMALL`."""


def make_small(model_type: str, attention: str | None = None, **sizes_of_this: Any):
    """Return it in evaluation mode, float32.

    Args:
        model_type: as in its configuration.
        attention: `attn_implementation`; `None` is transformers' choice.
        sizes_of_this: configuration that differs from `SMALL`.
    """
    default = AutoConfig.for_model(model_type)
    default.allow_global_per_layer_attribute_access = True  # Gemma 4 has a width of heads for each kind of layer
    sizes = {"pad_token_id": 0} | {
        name: value
        for name, value in SMALL.items()
        if getattr(default, name, None) is not None and not isinstance(getattr(type(default), name, None), property)
    }
    if "sliding_attention" not in (getattr(default, "layer_types", None) or []):
        sizes.pop("layer_types", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **sizes | OF_A_TYPE.get(model_type, {}) | sizes_of_this)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # contexts matter, so that seeing another's would show
    return model
