"""What is held at once, in bytes: weights, optimizer state, gradients, activations, logits. Pure arithmetic."""

from __future__ import annotations

from sage_dpo.planning.shape import ModelShape, TrainingSetup

MASTER_BYTES = 4
"""Bytes of a number that accumulates: adapter weights, their gradients, norms, the residual stream."""


def resident_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """Return what a trainer holds between steps: weights, optimizer state, and the reference where it has a model.

    Source: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 3.1.
    """
    weights = shape.parameters * setup.weight_bytes * (2 if setup.has_reference else 1)
    trained = shape.parameters if setup.adapters is None else setup.adapters
    return weights + MASTER_BYTES * (setup.adapters or 0) + setup.optimizer_bytes * trained


def cast_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """Return the weights' copies in the precision of matrix products, held while a pass runs under autocast."""
    return float(shape.parameters * setup.compute_bytes) if setup.is_mixed else 0.0


def running_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """Return what is held while a pass runs, before any activation: what is resident, and copies of the weights."""
    return resident_bytes(shape, setup) + cast_bytes(shape, setup)


def layer_activation_bytes(shape: ModelShape, compute_bytes: int) -> float:
    """Return the bytes that one layer keeps of one token for its backward pass.

        16 hidden + compute_bytes x (2 hidden + 2 query_width + 2 kv_width + 4 mlp_width)

    Two norms in float32, each its input and its normalised output; the inputs of the products: both norms' outputs,
    queries, keys, values, attention's output, and gate, up, activation and product of the MLP. Attention scores are not
    kept (fused kernels compute them again).

    Source: the way of counting is that of Korthikanti et al. 2022, arXiv:2205.05198, section 4.1. In float32 it agrees
    with what PyTorch saves for a Llama layer to 1 %, under bfloat16 autocast PyTorch saves some 10 % more.
    """
    products = 2 * shape.hidden + 2 * shape.query_width + 2 * shape.kv_width + 4 * shape.mlp_width
    return 4.0 * MASTER_BYTES * shape.hidden + compute_bytes * products


def training_bytes(shape: ModelShape, setup: TrainingSetup, *, tokens: float, logit_elements: float) -> float:
    """Return the peak of one microbatch: what is held while a pass runs, gradients, activations, logits.

    A head that is trained has its gradient summed in float32, in a buffer of the loss, beside the gradient itself.

    Args:
        shape, setup: of the model and its training.
        tokens: padded tokens of the microbatch, prompts and completions of both sides of each pair.
        logit_elements: logits held at once; a loss that works in tiles holds a tile.
    """
    is_full = setup.adapters is None
    gradients = shape.parameters * setup.weight_bytes if is_full else MASTER_BYTES * (setup.adapters or 0)
    gradients += MASTER_BYTES * shape.head if is_full else 0
    layer = tokens * layer_activation_bytes(shape, setup.compute_bytes)
    activations = shape.layers * layer
    if setup.checkpointing:
        activations = shape.layers * tokens * shape.hidden * MASTER_BYTES + layer
    logits = logit_elements * setup.compute_bytes
    return running_bytes(shape, setup) + gradients + activations + logits


def forward_bytes(
    shape: ModelShape, *, tokens: float, logit_elements: float, compute_bytes: int, logit_bytes: int
) -> float:
    """Return what a forward pass without gradients needs beside the weights: one layer's activations, and the logits.

    Args:
        shape: of the model.
        tokens: padded tokens of the batch.
        logit_elements: logits held at once: positions x vocabulary.
        compute_bytes: of a number in matrix products.
        logit_bytes: of a logit, all its copies together.
    """
    return tokens * layer_activation_bytes(shape, compute_bytes) + logit_elements * logit_bytes
