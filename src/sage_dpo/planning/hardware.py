"""Data sheets of GPUs, and how long a cost takes on a machine of them: the roofline. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sage_dpo.errors import ConfigError
from sage_dpo.planning.cost import StageCost

LAYER_CALL_S = 1e-3
"""Seconds to launch the kernels of one layer in eager PyTorch. Rough: Llama-7B, 32 layers, decodes 25.5 tokens a second
before any optimization (pytorch.org/blog/accelerating-generative-ai-2), 1.2 ms a layer; a fast host needs less."""

_DEFAULT_GPU = "H100-SXM"


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


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan is for: `count` GPUs of a kind.

    Attributes:
        gpu: the kind.
        count: how many.
        utilization: fraction of the data sheet's peak and bandwidth that is reached, in (0, 1].

    Raises:
        ConfigError: count or utilization is out of range.
    """

    gpu: Gpu
    count: int = 1
    utilization: float = 0.4

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"--gpus is {self.count}, expected at least 1")
        if not 0.0 < self.utilization <= 1.0:
            raise ConfigError(f"utilization is {self.utilization}, expected a fraction of the peak in (0, 1]")

    def __str__(self) -> str:
        gpu = self.gpu
        return (
            f"{self.count} x {gpu.name} ({gpu.tflops:g} TFLOP/s, {gpu.memory_gb:g} GB, {gpu.bandwidth_gbs:g} GB/s), "
            f"{100 * self.utilization:g} % of the peak reached"
        )

    def hours(self, cost: StageCost, *, in_float32: bool = False, layer_call_s: float = LAYER_CALL_S) -> float:
        """Return how long one GPU takes: as long as the slowest of operations, memory traffic and launching kernels.

            max(flops / (utilization x peak), bytes_moved / (utilization x bandwidth), layer_calls x layer_call_s)

        Args:
            cost: of a stage.
            in_float32: matrix products are in float32.
            layer_call_s: seconds to launch one layer's kernels; 0 where they are captured in a graph.

        Source: the roofline of Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785.
        """
        peak = (self.gpu.float32_tflops if in_float32 else self.gpu.tflops) * 1e12
        seconds = max(
            cost.flops / (self.utilization * peak),
            cost.bytes_moved / (self.utilization * self.gpu.bandwidth_gbs * 1e9),
            cost.layer_calls * layer_call_s,
        )
        return seconds / 3600


def find_machine(
    name: str | None,
    *,
    count: int = 1,
    utilization: float = 0.4,
    tflops: float | None = None,
    memory_gb: float | None = None,
    bandwidth_gbs: float | None = None,
) -> Machine:
    """Return a machine by the name of its GPU, by its numbers, or by its name with some numbers replaced.

    Args:
        name: of `GPUS`; `None` is an H100 unless all three numbers are given.
        count: GPUs.
        utilization: fraction of the peak that is reached.
        tflops: dense peak, in the precision computed in: it replaces that of bfloat16 and that of float32.
        memory_gb, bandwidth_gbs: of one GPU, 1e9 bytes (a second).

    Raises:
        ConfigError: unknown name (all known ones are listed), or a number out of range.
    """
    if name is None and tflops is not None and memory_gb is not None and bandwidth_gbs is not None:
        return Machine(Gpu("GPU as given", tflops, tflops, memory_gb, bandwidth_gbs), count, utilization)
    if name is None and (tflops, memory_gb, bandwidth_gbs) != (None, None, None):
        raise ConfigError(
            "a machine without a name needs all of --tflops, --memory-gb and --bandwidth-gbs, or add --gpu"
        )
    given = {"tflops": tflops, "float32_tflops": tflops, "memory_gb": memory_gb, "bandwidth_gbs": bandwidth_gbs}
    replaced = {field: value for field, value in given.items() if value is not None}
    return Machine(replace(find_gpu(name or _DEFAULT_GPU), **replaced), count, utilization)  # type: ignore[arg-type]


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
