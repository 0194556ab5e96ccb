"""A tiny random policy and its word-level tokenizer, built in memory without any download."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAD, UNKNOWN, USER, ASSISTANT, END = "<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIALS = [PAD, UNKNOWN, USER, ASSISTANT, END]
WORDS = [*(str(number) for number in range(30)), *"+-*=.,?:", *(f"w{index}" for index in range(21))]
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ '<|assistant|> ' }}{% generation %}{{ message['content'] + ' <|end|> ' }}{% endgeneration %}"
    "{%- else -%}"
    "{{ '<|user|> ' + message['content'] + ' ' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|> ' }}{%- endif -%}"
)


def make_tiny_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """64 words (numbers 0-29, a few signs, w0-w20), separated by white space; pad, eos and a chat template."""
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate([*SPECIALS, *WORDS])}, unk_token=UNKNOWN)
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def make_tiny_model(seed: int = 0) -> Qwen2ForCausalLM:
    """A random Qwen2 of about 20,000 parameters, float32, in evaluation mode; leaves the global generator alone."""
    config = Qwen2Config(
        vocab_size=len(SPECIALS) + len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        pad_token_id=SPECIALS.index(PAD),
        eos_token_id=SPECIALS.index(END),
        bos_token_id=None,
        tie_word_embeddings=True,
        initializer_range=0.2,  # the usual 0.02 makes a nearly uniform policy, which would hide mistakes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).eval()
