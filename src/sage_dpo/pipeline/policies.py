"""A recipe's policy section -> a model and a tokenizer."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import deepspeed as zero
from transformers.utils import logging as transformers_logging

from sage_dpo.config import LoraSettings, PolicySettings
from sage_dpo.data.rows import first_line
from sage_dpo.errors import ConfigError
from sage_dpo.pretrained.smollm2 import NAME as SMOLLM2
from sage_dpo.pretrained.smollm2 import smollm2_folder

_GYM = "gym:"


@contextmanager
def _whole_weights() -> Iterator[None]:
    """Load models whole: while arguments of a training with ZeRO-3 exist, transformers spreads all that it loads."""
    settings = zero._hf_deepspeed_config_weak_ref
    zero.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        zero._hf_deepspeed_config_weak_ref = settings


def policy_path(path: str) -> str:
    """Resolve `gym:NAME` and `smollm2` to folders; leave any other path or hub id as it is.

    Raises:
        ConfigError: no such bundled policy, or SmolLM2's package is absent or cannot be converted.
    """
    if path == SMOLLM2:
        return str(smollm2_folder())
    if not path.startswith(_GYM):
        return path
    from sage_dpo.gym.policy import bundled_policy_path

    return str(bundled_policy_path(path.removeprefix(_GYM)))


def load_tokenizer(settings: PolicySettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer, with a padding token.

    Raises:
        ConfigError: nothing usable at the path.
    """
    path = policy_path(settings.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=settings.revision)
    except Exception as error:  # damaged weights and a hub out of reach have errors of several libraries
        raise _not_loadable(settings, error) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@_whole_weights()
def load_model(settings: PolicySettings) -> PreTrainedModel:
    """Load the policy, whole, on the best device at hand.

    Raises:
        ConfigError: nothing usable at the path.
    """
    transformers_logging.disable_progress_bar()  # a bar for each file of weights hides the ones that matter
    path = policy_path(settings.path)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, **model_arguments(settings))
    except Exception as error:  # damaged weights and a hub out of reach have errors of several libraries
        raise _not_loadable(settings, error) from None
    placed: PreTrainedModel = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return placed


@_whole_weights()
def count_parameters(settings: PolicySettings) -> int:
    """Return the number of the policy's parameters, without its weights.

    Raises:
        ConfigError: nothing usable at the path.
    """
    try:
        shape = AutoConfig.from_pretrained(policy_path(settings.path), revision=settings.revision)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape)
    except Exception as error:  # as in `load_model`
        raise _not_loadable(settings, error) from None
    return sum(parameter.numel() for parameter in model.parameters())


@_whole_weights()
def load_trained(settings: PolicySettings, folder: Path, *, is_trainable: bool = False) -> Any:
    """Load the policy that training saved to `folder`.

    Args:
        settings: of the policy before training.
        folder: weights, or an adapter of `settings.lora`.
        is_trainable: give an adapter's weights gradients, which PEFT otherwise switches off.
    """
    if settings.lora is None:
        return load_model(settings.model_copy(update={"path": str(folder), "revision": None}))
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(settings), str(folder), is_trainable=is_trainable)


@_whole_weights()
def load_untrained(settings: PolicySettings, *, seed: int) -> Any:
    """Load the policy with the weights that training would change: all, or those of a new adapter, drawn by `seed`."""
    model = load_model(settings)
    if settings.lora is None:
        return model
    from peft import get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, lora_config(settings.lora))


def model_arguments(settings: PolicySettings) -> dict[str, Any]:
    """Return the keyword arguments of `from_pretrained` that the recipe asks for; pickled weights are refused."""
    arguments: dict[str, Any] = {
        "dtype": settings.dtype,
        "revision": settings.revision or "main",
        "use_safetensors": True,
    }
    if settings.attn_implementation:
        arguments["attn_implementation"] = settings.attn_implementation
    return arguments


def lora_config(settings: LoraSettings | None) -> Any:
    """Return PEFT's configuration, or `None` for full fine-tuning."""
    if settings is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )


def release_memory() -> None:
    """Free what a trainer left: it is full of cycles, and the next arm's weights and optimizer need the room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _not_loadable(settings: PolicySettings, error: Exception) -> ConfigError:
    path = settings.path
    where = "policy folder" if Path(path).exists() else "policy path"
    missing = "" if Path(path).exists() else "there is no such folder here, and as a hub id: "
    reason = first_line(error).rstrip(".")
    return ConfigError(
        f"{where} {path!r} cannot be loaded: {missing}{reason}; give a folder saved with save_pretrained, a hub id, or "
        "gym:S, gym:M, gym:S-hard or smollm2"
    )
