"""What tokens that were run have cost in floating-point operations; run folders hold it. Pure arithmetic.

`planning.cost` predicts more closely: it knows layers, lengths, the language-model head and adapters.
"""

from __future__ import annotations


def forward_flops(tokens: int, parameters: int) -> float:
    """Return the operations of a forward pass: 2 per parameter and token.

    Args:
        tokens: real tokens, no padding.
        parameters: of the policy, embeddings included where they are tied to the language-model head.

    Source: Kaplan et al. 2020, arXiv:2001.08361, table 1. Attention scores are left out: they add `2 layers x hidden x
    length` per token, some percent at the lengths of the gym.
    """
    return 2.0 * parameters * tokens


def training_flops(tokens: int, parameters: int) -> float:
    """Return the operations of a forward and backward pass with all weights trained: 6 per parameter and token.

    Arguments and source as for `forward_flops`. Gradient checkpointing would add another forward pass. With LoRA
    it overstates the cost: no gradients are computed for the frozen weights.
    """
    return 3.0 * forward_flops(tokens, parameters)


def policy_flops(*, sampled: int, scored: int, reference: int, trained: int, parameters: int) -> float:
    """Return the operations it takes to make a policy: rollouts, scoring, reference, training.

    Args:
        sampled: tokens of rollouts, prompts included, each prompt once per sample.
        scored, reference, trained: tokens run through the policy to choose, through the reference, and trained on.
        parameters: as for `forward_flops`.
    """
    return forward_flops(sampled + scored + reference, parameters) + training_flops(trained, parameters)
