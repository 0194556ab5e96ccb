"""Which models may be decoded in slots, and which may be padded.

No flag of transformers tells: some models count positions along the cache's columns, or see padding.
"""

from __future__ import annotations

import math
from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

SLOT_MODELS = frozenset(
    {
        "afmoe",
        "apertus",
        "arcee",
        "aria_text",
        "beam",
        "biogpt",
        "bitnet",
        "bloom",
        "codegen",
        "cohere",
        "cohere2",
        "cohere2_moe",
        "ctrl",
        "cwm",
        "deepseek_v2",
        "deepseek_v3",
        "diffllama",
        "doge",
        "dots1",
        "ernie4_5",
        "ernie4_5_moe",
        "exaone4",
        "exaone_moe",
        "falcon",
        "flex_olmo",
        "flint",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma4",
        "gemma4_text",
        "gemma4_unified",
        "gemma4_unified_text",
        "glm",
        "glm4",
        "glm4_moe",
        "glm4_moe_lite",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "gpt_neox_japanese",
        "gpt_oss",
        "gptj",
        "granite",
        "granite_swa",
        "granitemoe",
        "granitemoe_swa",
        "granitemoeshared",
        "helium",
        "hunyuan_v1_dense",
        "hunyuan_v1_moe",
        "hy_v3",
        "hyperclovax",
        "internlm3",
        "iquestcoder",
        "jais2",
        "jetmoe",
        "kolibri1",
        "laguna",
        "lfm3",
        "llama",
        "longcat_flash",
        "mellum",
        "mimo_v2_flash",
        "minicpm3",
        "minimax_m2",
        "ministral",
        "ministral3",
        "mistral",
        "mixtral",
        "modernbert-decoder",
        "nanochat",
        "nemotron",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "opt",
        "persimmon",
        "phi",
        "phi3",
        "phimoe",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "solar_open",
        "stablelm",
        "starcoder2",
        "vaultgemma",
        "xglm",
        "youtu",
    }
)
"""Model types whose logits in slots were seen to be those of whole forward passes
(`tests/unit/rollouts/test_known_models.py`). Left out are those that count positions (BART, Llama 4) or distances (MPT,
windows of GPT-Neo) along the columns, choose keys by an index beside them (DeepSeek-V3.2, GLM-5), or keep no keys and
values in the cache that they are given (GPT, RWKV). Gemma 4 E2B and E4B, which share keys, are padded."""

PADDED_MODELS = SLOT_MODELS | frozenset(
    {
        "bamba",
        "falcon_h1",
        "falcon_mamba",
        "gemma3n_text",
        "gpt_neo",
        "granitemoehybrid",
        "jamba",
        "kimi_linear",
        "lfm2",
        "lfm2_moe",
        "mamba",
        "mamba2",
        "mpt",
        "nemotron_h",
        "olmo_hybrid",
        "openai-gpt",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_next",
        "zamba2",
    }
)
"""Model types whose logits in `generate`, rows padded on the left, were seen to be those of the rows alone (same
tests). Not so BART, DeepSeek-V3.2, GLM-5, MiniMax, RecurrentGemma, RWKV."""

POSITION_TABLES = frozenset(
    {"biogpt", "codegen", "ctrl", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "openai-gpt", "opt"}
)
"""Those of `PADDED_MODELS` that look positions up in a table, which ends at `max_position_embeddings`."""


def can_use_slots(model: Any, longest: int) -> bool:
    """Whether rows may be decoded in slots of one cache (`slot_cache`), each as if it were alone.

    Args:
        model: a transformers or PEFT model.
        longest: tokens that a row may reach, prompt included.
    """
    config, adapters = model.config, getattr(model, "peft_config", {}).values()
    if config.model_type not in SLOT_MODELS or longest > _same_frequencies_up_to(config):
        return False
    # A configuration may still give layers of such a type a cache of another kind.
    layers = DynamicCache(config=config).layers
    is_sliced = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return is_sliced and all(map(_acts_by_token, adapters))


def can_be_padded(model: Any, longest: int) -> bool:
    """Whether rows of unequal lengths may be padded for the model's own `generate`; arguments as `can_use_slots`."""
    return longest <= _same_frequencies_up_to(model.config) and model.config.model_type in PADDED_MODELS


def most_positions(model: Any) -> float:
    """Return how many tokens a row can have; infinite where positions are computed."""
    config = model.config
    return config.max_position_embeddings if config.model_type in POSITION_TABLES else math.inf


def _same_frequencies_up_to(config: Any) -> float:
    """Return the length beyond which the longest row of a batch changes the rotary embeddings of all."""
    text = config.get_text_config(decoder=True)
    parameters = getattr(text, "rope_parameters", None) or {}
    kinds = [parameters, *(kind for kind in parameters.values() if isinstance(kind, dict))]  # one, or one a layer type
    limits = [
        kind.get("original_max_position_embeddings") or text.max_position_embeddings
        for kind in kinds
        if "dynamic" in kind.get("rope_type", "") or kind.get("rope_type") == "longrope"
    ]
    return min(limits, default=math.inf)


def _acts_by_token(adapter: Any) -> bool:
    """Whether an adapter does to a token what it does to it in any row: no virtual tokens, no beginning in the row."""
    is_prompt = adapter.is_prompt_learning or adapter.is_adaption_prompt
    return not is_prompt and getattr(adapter, "alora_invocation_tokens", None) is None
