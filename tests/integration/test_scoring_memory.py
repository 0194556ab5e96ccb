"""Scoring long completions: memory grows with the longest one, not with their number, its square or the vocabulary."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, torch
from benchmarks.harness import peak_memory_added
from transformers import LlamaConfig, LlamaForCausalLM
from sage_dpo.forward import TokenizedCompletion, score_completions
vocabulary, count, length, width = map(int, sys.argv[1:])
torch.manual_seed(0)
torch.set_num_threads(1)
model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, hidden_size=16, intermediate_size=width,
    num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=length)).eval()
ids = torch.randint(0, vocabulary, (count, length)).tolist()
completions = [TokenizedCompletion(tuple(row[:16]), tuple(row[16:])) for row in ids]
score_completions(model, completions[:1], token_budget=256)  # warm up
print(peak_memory_added(lambda: score_completions(model, completions, token_budget=4096)))
"""


def peak_mib(vocabulary: int, count: int, length: int, *, width: int = 32) -> float:
    command = [sys.executable, "-c", PROGRAM, *map(str, (vocabulary, count, length, width))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize(("vocabulary", "count", "length"), [(64_000, 1, 4096), (64_000, 8, 4096), (1_000, 8, 4096)])
def test_the_logits_of_a_sequence_are_never_held(vocabulary, count, length):
    # 4,096 x 64,000 float32 logits are 1,000 MiB
    assert peak_mib(vocabulary, count, length) < 300


def test_memory_is_linear_in_the_longest_sequence_and_flat_in_their_number():
    # a layer's MLP holds 8,192 x 2,048 float32, 64 MiB, some times over; 32,768 x 32,768 attention scores are 4,096 MiB
    one = peak_mib(100, 1, 8192, width=2048)
    assert one > 64
    assert peak_mib(100, 4, 8192, width=2048) < 1.2 * one
    assert peak_mib(100, 1, 32_768, width=2048) < 1.2 * 4 * one
