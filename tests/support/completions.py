"""Random completions, their scores by definition, and what a forward pass was given."""

from __future__ import annotations

import numpy as np
import torch
from tests.support.tiny import make_tiny_model

from sage_dpo.forward import TokenizedCompletion, score_completions


def make_completions(count: int, seed: int = 0) -> list[TokenizedCompletion]:
    rng = np.random.default_rng(seed)
    draw = lambda low, high: tuple(rng.integers(5, 60, size=rng.integers(low, high)).tolist())  # noqa: E731
    return [TokenizedCompletion(draw(1, 20), draw(1, 40)) for _ in range(count)]


def make_shared_completions(prompts: int = 4, longest: int = 16, seed: int = 0) -> list[TokenizedCompletion]:
    """Up to four completions of each prompt, in no order."""
    rng = np.random.default_rng(seed)
    draw = lambda low, high: tuple(rng.integers(3, 32, rng.integers(low, high)).tolist())  # noqa: E731
    rows = [
        TokenizedCompletion(prompt, draw(1, longest))
        for prompt in (draw(6, 14) for _ in range(prompts))
        for _ in range(rng.integers(1, 5))
    ]
    return [rows[i] for i in rng.permutation(len(rows))]


def score_one(model, completion):
    """Log-probability and informativeness by definition, one sequence, no padding, all logits."""
    ids = torch.tensor([completion.prompt_ids + completion.completion_ids])
    with torch.no_grad():
        probabilities = model(input_ids=ids).logits[0].double().softmax(-1)
    logp, informativeness = 0.0, 0.0
    for position in range(len(completion.prompt_ids), ids.shape[1]):
        p = probabilities[position - 1]
        target = int(ids[0, position])
        logp += float(p[target].log())
        informativeness += 1 - 2 * float(p[target]) + float((p**2).sum())
    return logp, informativeness


def tokens_run(completions, token_budget, model=None) -> list[int]:
    """Tokens of every forward pass."""
    model = model or make_tiny_model()
    counts = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: counts.append(inputs[0].numel()))
    score_completions(model, completions, token_budget=token_budget, device=model.device)
    handle.remove()
    return counts
