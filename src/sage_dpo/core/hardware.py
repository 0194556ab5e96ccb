"""Data sheets of GPUs, and how long a cost takes on one: the roofline. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from sage_dpo.core.cost import StageCost
from sage_dpo.errors import ConfigError

LAYER_CALL_S = 1e-3
"""Seconds to launch the kernels of one layer in eager PyTorch. Rough: Llama-7B, 32 layers, decodes 25.5 tokens a second
before any optimization (pytorch.org/blog/accelerating-generative-ai-2), 1.2 ms a layer; a fast host needs less."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as in `GPUS`.
        tflops: dense peak of matrix products in bfloat16 (T4: float16) with float32 sums, 1e12 operations a second.
        float32_tflops: peak in float32, without tensor cores: PyTorch's default for float32 weights.
        memory_gb: 1e9 bytes.
        bandwidth_gbs: of its memory, 1e9 bytes a second.

    Raises:
        ConfigError: a number is not positive.
    """

    name: str
    tflops: float
    float32_tflops: float
    memory_gb: float
    bandwidth_gbs: float

    def __post_init__(self) -> None:
        for field in ("tflops", "float32_tflops", "memory_gb", "bandwidth_gbs"):
            if not getattr(self, field) > 0:
                raise ConfigError(f"{field} of GPU {self.name!r} is {getattr(self, field)}, expected a number above 0")


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40GB", 312.0, 19.5, 40.0, 1555.0),
        Gpu("A100-80GB", 312.0, 19.5, 80.0, 2039.0),
        Gpu("H100-SXM", 989.0, 67.0, 80.0, 3350.0),
        Gpu("H200", 989.0, 67.0, 141.0, 4800.0),
        Gpu("L40S", 362.0, 91.6, 48.0, 864.0),
        Gpu("RTX-4090", 165.2, 82.6, 24.0, 1008.0),
        Gpu("RTX-3090", 71.0, 35.6, 24.0, 936.0),
        Gpu("T4", 65.0, 8.1, 16.0, 320.0),
    )
}
"""Source: the vendor's data sheets, without sparsity; SXM modules where there are several."""


def find_gpu(name: str) -> Gpu:
    """Return the GPU of that name; case, spaces and hyphens do not matter, and an unambiguous part is enough.

    Raises:
        ConfigError: no GPU of that name, or several.
    """
    wanted = _plain(name)
    exact = [gpu for gpu in GPUS.values() if _plain(gpu.name) == wanted]
    matches = exact or [gpu for gpu in GPUS.values() if wanted and wanted in _plain(gpu.name)]
    if len(matches) != 1:
        what = f"is one of {', '.join(gpu.name for gpu in matches)}" if matches else "is not known"
        raise ConfigError(
            f"GPU {name!r} {what}; known are {', '.join(GPUS)}; for another machine give its peak, memory and "
            "bandwidth (--tflops, --memory-gb, --bandwidth-gbs)"
        )
    return matches[0]


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def seconds(
    cost: StageCost, gpu: Gpu, *, utilization: float, in_float32: bool = False, layer_call_s: float = LAYER_CALL_S
) -> float:
    """Return how long a cost takes: as long as the slowest of operations, memory traffic and launching kernels.

        max(flops / (utilization x peak), bytes_moved / (utilization x bandwidth), layer_calls x layer_call_s)

    Args:
        cost: of a stage.
        gpu: runs it.
        utilization: fraction of the data sheet's peak and bandwidth that is reached, in (0, 1].
        in_float32: matrix products are in float32.
        layer_call_s: seconds to launch one layer's kernels; 0 where they are captured in a graph.

    Raises:
        ConfigError: utilization is outside (0, 1].

    Source: the roofline of Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785.
    """
    if not 0.0 < utilization <= 1.0:
        raise ConfigError(f"utilization is {utilization}, expected a fraction of the peak in (0, 1]")
    peak = (gpu.float32_tflops if in_float32 else gpu.tflops) * 1e12
    return max(
        cost.flops / (utilization * peak),
        cost.bytes_moved / (utilization * gpu.bandwidth_gbs * 1e9),
        cost.layer_calls * layer_call_s,
    )
