"""What running sequences through a model costs: operations, bytes moved, layers launched. Pure arithmetic.

What this file does not know: memory (memory.py), machines (hardware.py), recipes (stages.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from sage_dpo.planning.shape import ModelShape, TrainingSetup


@dataclass(frozen=True, slots=True)
class Sequences:
    """`count` sequences of mean lengths `prompt` and `completion`, in tokens; fractions are fine."""

    count: float
    prompt: float
    completion: float

    @property
    def tokens(self) -> float:
        return self.count * (self.prompt + self.completion)


@dataclass(frozen=True, slots=True)
class StageCost:
    """What running a stage takes; costs add up.

    Attributes:
        tokens: real tokens; which ones, the stage says.
        flops: operations.
        bytes_moved: to and from memory, as far as it is not hidden behind operations: weights and caches.
        layer_calls: layers run one after the other, a backward pass counted as two; in eager PyTorch each costs the
            time of launching its kernels, however small.
    """

    tokens: float = 0.0
    flops: float = 0.0
    bytes_moved: float = 0.0
    layer_calls: float = 0.0

    def __add__(self, other: StageCost) -> StageCost:
        return StageCost(
            tokens=self.tokens + other.tokens,
            flops=self.flops + other.flops,
            bytes_moved=self.bytes_moved + other.bytes_moved,
            layer_calls=self.layer_calls + other.layer_calls,
        )


# -- operations --------------------------------------------------------------------------------------------------------


def attention_flops(shape: ModelShape, sequences: Sequences) -> float:
    """Return the operations of attention scores and their products with the values, forward, all layers.

        4 layers x query_width x length^2 / 2 for each sequence of `length` tokens

    Half of the full square: under causal attention a token sees only what stands before it, and fused kernels skip
    the rest.

    Source: Kaplan et al. 2020, arXiv:2001.08361, table 1; Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B,
    which counts the full square. Mean lengths understate it: the mean of squares is above the square of the mean.
    """
    length = sequences.prompt + sequences.completion
    return 4.0 * shape.layers * shape.query_width * sequences.count * length**2 / 2


def inference_flops(shape: ModelShape, sequences: Sequences) -> float:
    """Return the operations of one forward pass: 2 per weight and token, and attention.

    The head runs on completion positions only, as in the scorer and in TRL's loss. Source as for `attention_flops`.
    """
    return _linear_flops(shape, sequences) + attention_flops(shape, sequences)


def step_flops(shape: ModelShape, sequences: Sequences, setup: TrainingSetup) -> float:
    """Return the operations of forward and backward passes.

        forward + gradients of activations + gradients of weights + the head's forward again
            (+ the layers' forward again, with checkpointing)

    Gradients of weights are as much as a forward pass without attention where all weights are trained; LoRA computes
    them for its adapters only. Attention's backward pass costs twice its forward pass (PaLM, as above). The loss of TRL
    keeps no logits: its backward pass computes them again, with or without checkpointing.
    """
    adapters = 2.0 * (setup.adapters or 0) * sequences.tokens
    linear = _linear_flops(shape, sequences) + adapters
    attention = attention_flops(shape, sequences)
    weight_gradients = linear if setup.adapters is None else adapters
    head = 2.0 * shape.head * sequences.count * sequences.completion
    again = linear + attention if setup.checkpointing else head
    return linear + attention + again + linear + 2 * attention + weight_gradients


def _linear_flops(shape: ModelShape, sequences: Sequences) -> float:
    return 2.0 * (shape.body * sequences.tokens + shape.head * sequences.count * sequences.completion)


# -- generation --------------------------------------------------------------------------------------------------------


def prefill_cost(shape: ModelShape, setup: TrainingSetup, *, prompts: float, prompt: float, batch: float) -> StageCost:
    """Return the cost of running prompts through the model once, `batch` at a time, before their first new token.

    Args:
        shape, setup: of the model and its weights.
        prompts: number of them; K samples of one prompt can share its prefill.
        prompt: mean tokens.
        batch: prompts at once.
    """
    passes = prompts / min(batch, prompts) if prompts else 0.0
    return StageCost(
        flops=inference_flops(shape, Sequences(prompts, prompt, 0.0)),
        bytes_moved=passes * shape.body * setup.read_bytes,
        layer_calls=passes * shape.layers,
    )


def decode_cost(
    shape: ModelShape, setup: TrainingSetup, sequences: Sequences, *, batch: int, longest: float, occupancy: float
) -> StageCost:
    """Return the cost of sampling completions token by token; `tokens` are those sampled.

    A step reads every weight once, for all rows of the batch, and each row's keys and values; with few rows it is that,
    not the operations, which takes the time.

        steps = count x completion / (rows x occupancy) + max(0, longest - completion / occupancy)

    The second term is the tail: the last batch runs until its longest completion has ended.

    Args:
        shape, setup: of the model and its weights.
        sequences: prompts and completions.
        batch: rows at once, at most.
        longest: tokens of the longest completion.
        occupancy: share of a batch's rows that have not ended yet, mean over steps, in (0, 1].

    Source: Pope et al. 2022, arXiv:2211.05102, section 2.
    """
    count, prompt, completion = sequences.count, sequences.prompt, sequences.completion
    if not count:
        return StageCost()
    attention = attention_flops(shape, sequences) - attention_flops(shape, Sequences(count, prompt, 0.0))
    steps = count * completion / (min(batch, count) * occupancy) + max(0.0, longest - completion / occupancy)
    cache_reads = count * completion * kv_cache_bytes(shape, prompt + completion / 2, setup.compute_bytes)
    return StageCost(
        tokens=count * completion,
        flops=2.0 * (shape.body + shape.head) * count * completion + attention,
        bytes_moved=steps * (shape.body + shape.head) * setup.read_bytes + cache_reads,
        layer_calls=steps * shape.layers,
    )


def kv_cache_bytes(shape: ModelShape, tokens: float, compute_bytes: int) -> float:
    """Return the bytes of the keys and values of `tokens` tokens: `2 layers x kv_width` numbers each."""
    return 2.0 * shape.layers * shape.kv_width * tokens * compute_bytes
