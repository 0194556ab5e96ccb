"""What of a causal language model its cost depends on: sizes, and how its weights are held and trained.

What this file does not know: layers that are not dense transformer blocks with a gated MLP. Of a mixture of experts
only some parameters compute, so its operations are overstated.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a causal language model.

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
class TrainingSetup:
    """How the weights are held and trained.

    Attributes:
        adapters: LoRA parameters, held and trained in float32 over frozen weights; `None` trains every weight.
        weight_bytes: of a weight as loaded: 4 float32, 2 bfloat16.
        compute_bytes: of a number in matrix products; under mixed precision (weights 4, compute 2) every weight has a
            copy in that precision while a pass runs, and the weights themselves are the master weights.
        optimizer_bytes: of the optimizer's state per trained weight; AdamW has two moments in float32, 8. 0 where
            nothing is trained.
        checkpointing: only layer inputs are kept, and the forward pass is run again on the way back.
        has_reference: a second copy of the weights serves the reference log-probabilities.
    """

    adapters: int | None = None
    weight_bytes: int = 4
    compute_bytes: int = 4
    optimizer_bytes: int = 8
    checkpointing: bool = False
    has_reference: bool = False

    @property
    def in_float32(self) -> bool:
        """Whether matrix products are."""
        return self.compute_bytes == 4

    @property
    def is_mixed(self) -> bool:
        """Whether weights are cast to a smaller precision for their products."""
        return self.compute_bytes < self.weight_bytes

    @property
    def read_bytes(self) -> int:
        """Bytes moved to use a weight once: where it is cast, it is read, written smaller, and read again."""
        return self.weight_bytes + (2 * self.compute_bytes if self.is_mixed else 0)


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
