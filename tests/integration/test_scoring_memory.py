"""Scoring long completions: memory does not grow with the vocabulary, nor with the number of sequences."""

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
from sage_dpo.scoring import TokenizedCompletion, score_completions
vocabulary, count, length = map(int, sys.argv[1:])
torch.manual_seed(0)
torch.set_num_threads(1)
model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=length)).eval()
ids = torch.randint(0, vocabulary, (count, length)).tolist()
completions = [TokenizedCompletion(tuple(row[:16]), tuple(row[16:])) for row in ids]
score_completions(model, completions[:1], token_budget=256)  # warm up
print(peak_memory_added(lambda: score_completions(model, completions, token_budget=4096)))
"""


def peak_mib(vocabulary: int, count: int, length: int) -> float:
    command = [sys.executable, "-c", PROGRAM, str(vocabulary), str(count), str(length)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize(("vocabulary", "count", "length"), [(64_000, 1, 4096), (64_000, 8, 4096), (1_000, 8, 4096)])
def test_the_logits_of_a_sequence_are_never_held(vocabulary, count, length):
    # 4,096 x 64,000 float32 logits are 1,000 MiB
    assert peak_mib(vocabulary, count, length) < 300
