"""What a stage costs in floating-point operations and bytes, from token counts and a model's shape. Pure arithmetic.

Two levels. The first three functions count operations from measured tokens and a number of parameters; run folders hold
theirs. The others predict: they know layers, lengths, the language-model head, adapters and memory.

What this file does not know: machines (`core.hardware`), recipes (`planning`), layers that are not dense transformer
blocks with a gated MLP. Of a mixture of experts only some parameters compute, so its operations are overstated.
"""

from __future__ import annotations

from dataclasses import dataclass

MASTER_BYTES = 4
"""Bytes of a number that accumulates: adapter weights, their gradients, norms, the residual stream."""


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


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a causal language model its cost depends on.

    Attributes:
        parameters: all of them, both embedding tables included where they are not tied.
        layers: transformer blocks.
        hidden: width of the residual stream.
        query_width, kv_width: heads x head dimension of the queries, and of the keys (= of the values).
        vocabulary: rows of the embedding table.
        tied: whether the embedding table is the language-model head as well.

    Raises:
        ValueError: a size is not positive, or the embeddings alone have more than `parameters`.
    """

    parameters: int
    layers: int
    hidden: int
    query_width: int
    kv_width: int
    vocabulary: int
    tied: bool

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in self.__slots__ if name != "tied"}
        wrong = {name: size for name, size in sizes.items() if size <= 0}
        if wrong:
            raise ValueError(f"model shape has {wrong}, expected positive sizes; give the model's own")
        if self.body <= 0:
            raise ValueError(
                f"model shape has {self.parameters:,} parameters, of which embeddings ({self.vocabulary:,} x "
                f"{self.hidden:,}, {'' if self.tied else 'not '}tied) leave none for {self.layers} layers; check "
                "parameters, vocabulary, hidden and tied"
            )

    @property
    def head(self) -> int:
        """Weights of the language-model head."""
        return self.vocabulary * self.hidden

    @property
    def body(self) -> int:
        """Weights of everything but the embedding table and the head. Looking a token up costs no operation."""
        return self.parameters - self.head * (1 if self.tied else 2)

    @property
    def mlp_width(self) -> float:
        """Inner width of a gated MLP (three matrices) that makes up for the rest of a layer's weights."""
        projections = 2 * self.hidden * (self.query_width + self.kv_width)
        return max(0.0, (self.body / self.layers - projections) / (3 * self.hidden))


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
    """What running a stage takes. Costs add up: their sum has the larger of the two memories.

    Attributes:
        tokens: real tokens; which ones, the stage says.
        flops: operations.
        bytes_moved: to and from memory, as far as it is not hidden behind operations: weights and caches.
        memory: most bytes held at once.
        layer_calls: layers run one after the other, a backward pass counted as two; in eager PyTorch each costs the
            time of launching its kernels, however small.
    """

    tokens: float = 0.0
    flops: float = 0.0
    bytes_moved: float = 0.0
    memory: float = 0.0
    layer_calls: float = 0.0

    def __add__(self, other: StageCost) -> StageCost:
        return StageCost(
            tokens=self.tokens + other.tokens,
            flops=self.flops + other.flops,
            bytes_moved=self.bytes_moved + other.bytes_moved,
            memory=max(self.memory, other.memory),
            layer_calls=self.layer_calls + other.layer_calls,
        )


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """How the weights are held and trained.

    Attributes:
        adapters: LoRA parameters, held and trained in float32 over frozen weights; `None` trains every weight.
        weight_bytes: of a weight as loaded: 4 float32, 2 bfloat16.
        compute_bytes: of a number in matrix products; under mixed precision (weights 4, compute 2) every weight has a
            copy in that precision while a step runs, and the weights themselves are the master weights.
        optimizer_bytes: of the optimizer's state per trained weight; AdamW has two moments in float32, 8.
        checkpointing: only layer inputs are kept, and the forward pass is run again on the way back.
        has_reference: a second copy of the weights serves the reference log-probabilities.
    """

    adapters: int | None = None
    weight_bytes: int = 4
    compute_bytes: int = 4
    optimizer_bytes: int = 8
    checkpointing: bool = False
    has_reference: bool = False


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


def adapter_parameters(shape: ModelShape, rank: int, modules: list[str] | None = None) -> int:
    """Return the weights of LoRA adapters: rank x (inputs + outputs) for each adapted matrix.

    Args:
        shape: of the model.
        rank: r.
        modules: of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; `None` is all of them, and so is a
            list of none of them.

    Source: Hu et al. 2021, arXiv:2106.09685.
    """
    hidden, query, kv, mlp = shape.hidden, shape.query_width, shape.kv_width, shape.mlp_width
    sizes = {
        "q_proj": hidden + query,
        "k_proj": hidden + kv,
        "v_proj": hidden + kv,
        "o_proj": query + hidden,
        "gate_proj": hidden + mlp,
        "up_proj": hidden + mlp,
        "down_proj": mlp + hidden,
    }
    chosen = [size for name, size in sizes.items() if modules is None or name in modules] or list(sizes.values())
    return round(shape.layers * rank * sum(chosen))


def _linear_flops(shape: ModelShape, sequences: Sequences) -> float:
    return 2.0 * (shape.body * sequences.tokens + shape.head * sequences.count * sequences.completion)


# -- generation --------------------------------------------------------------------------------------------------------


def prefill_cost(shape: ModelShape, *, prompts: float, prompt: float, weight_bytes: int, batch: float) -> StageCost:
    """Return the cost of running prompts through the model once, `batch` at a time, before their first new token.

    Args:
        prompts: number of them; K samples of one prompt can share its prefill.
        prompt: mean tokens.
        weight_bytes: of a weight.
        batch: prompts at once.
    """
    passes = prompts / min(batch, prompts) if prompts else 0.0
    return StageCost(
        flops=inference_flops(shape, Sequences(prompts, prompt, 0.0)),
        bytes_moved=passes * shape.body * weight_bytes,
        layer_calls=passes * shape.layers,
    )


def decode_cost(
    shape: ModelShape,
    sequences: Sequences,
    *,
    batch: int,
    longest: float,
    weight_bytes: int,
    cache_bytes: int,
    occupancy: float,
) -> StageCost:
    """Return the cost of sampling completions token by token; `tokens` are those sampled.

    A step reads every weight once, for all rows of the batch, and each row's keys and values; with few rows it is that,
    not the operations, which takes the time.

        steps = count x completion / (rows x occupancy) + max(0, longest - completion / occupancy)

    The second term is the tail: the last batch runs until its longest completion has ended.

    Args:
        shape: of the model.
        sequences: prompts and completions.
        batch: rows at once, at most.
        longest: tokens of the longest completion.
        weight_bytes, cache_bytes: of a weight, and of a number in the key-value cache.
        occupancy: share of a batch's rows that have not ended yet, mean over steps, in (0, 1].

    Source: Pope et al. 2022, arXiv:2211.05102, section 2.
    """
    count, prompt, completion = sequences.count, sequences.prompt, sequences.completion
    if not count:
        return StageCost()
    whole = Sequences(count, prompt, completion)
    attention = attention_flops(shape, whole) - attention_flops(shape, Sequences(count, prompt, 0.0))
    steps = count * completion / (min(batch, count) * occupancy) + max(0.0, longest - completion / occupancy)
    cache_reads = count * completion * kv_cache_bytes(shape, prompt + completion / 2, cache_bytes)
    return StageCost(
        tokens=count * completion,
        flops=2.0 * (shape.body + shape.head) * count * completion + attention,
        bytes_moved=steps * (shape.body + shape.head) * weight_bytes + cache_reads,
        layer_calls=steps * shape.layers,
    )


def kv_cache_bytes(shape: ModelShape, tokens: float, cache_bytes: int) -> float:
    """Return the bytes of the keys and values of `tokens` tokens: `2 layers x kv_width` numbers each."""
    return 2.0 * shape.layers * shape.kv_width * tokens * cache_bytes


# -- memory ------------------------------------------------------------------------------------------------------------


def resident_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """Return what a trainer holds between steps: weights, optimizer state, and the reference where it has a model.

    Source: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 3.1.
    """
    weights = shape.parameters * setup.weight_bytes * (2 if setup.has_reference else 1)
    trained = shape.parameters if setup.adapters is None else setup.adapters
    return weights + MASTER_BYTES * (setup.adapters or 0) + setup.optimizer_bytes * trained


def cast_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """Return the weights' copies in the precision of matrix products, held while a pass runs under autocast."""
    return float(shape.parameters * setup.compute_bytes) if setup.compute_bytes < setup.weight_bytes else 0.0


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
    """Return the peak of one microbatch: what is resident, gradients, copies of the weights, activations, logits.

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
    return resident_bytes(shape, setup) + cast_bytes(shape, setup) + gradients + activations + logits


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
