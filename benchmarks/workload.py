"""Preference pairs with the lengths of reasoning data, and a small policy with a vocabulary of any size."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MEAN_LENGTH, SIGMA, LONGEST = 300, 0.9, 3072
PROMPT_LENGTHS = (30, 120)


def make_policy(vocabulary: int, *, hidden: int = 128, layers: int = 4, seed: int = 0) -> LlamaForCausalLM:
    """Return an untrained Llama with a head of its own."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=8192,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config).eval()


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def make_pairs(
    count: int, vocabulary: int, *, prompt_lengths: tuple[int, int] = PROMPT_LENGTHS, seed: int = 0
) -> Dataset:
    """Return pairs as text, a word a token, with prompts of `prompt_lengths` tokens, by default 30 to 120.

    Completion lengths are log-normal: mean 300, sigma 0.9, at most 3,072. Chosen and rejected are drawn independently,
    as two samples of one policy are.
    """
    rng = np.random.default_rng(seed)
    mu = np.log(MEAN_LENGTH) - SIGMA**2 / 2
    lengths = np.clip(rng.lognormal(mu, SIGMA, size=(2, count)), 8, LONGEST).astype(int)
    prompts = rng.integers(*prompt_lengths, size=count)
    draw = lambda size: " ".join(f"w{word}" for word in rng.integers(2, vocabulary, size=size))  # noqa: E731
    return Dataset.from_dict(
        {
            "prompt": [draw(n) for n in prompts],
            "chosen": [" " + draw(n - 1) for n in lengths[0]],  # the end-of-sequence token is the last
            "rejected": [" " + draw(n - 1) for n in lengths[1]],
        }
    )


def trl_arguments(folder: str | Path, **changes: Any) -> dict[str, Any]:
    """Return what TRL's and our configuration share here: float32 on whatever device there is, nothing written."""
    return {
        "output_dir": str(folder),
        "max_length": None,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "gradient_checkpointing": False,
        "bf16": False,
        "disable_tqdm": True,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "seed": 0,
        **changes,
    }


def temporary_folder() -> str:
    return tempfile.mkdtemp(prefix="sage-dpo-benchmark-")
