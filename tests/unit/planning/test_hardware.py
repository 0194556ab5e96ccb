"""The roofline, and GPUs by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sage_dpo.errors import ConfigError
from sage_dpo.planning.cost import StageCost
from sage_dpo.planning.hardware import GPUS, Gpu, Machine, find_gpu, find_machine

TOY = Gpu("toy", tflops=1.0, float32_tflops=0.25, memory_gb=1.0, bandwidth_gbs=10.0)


def seconds(cost: StageCost, utilization: float = 1.0, **options: Any) -> float:
    return 3600 * Machine(TOY, utilization=utilization).hours(cost, **options)


def test_the_slowest_of_three_decides() -> None:
    cost = StageCost(flops=2e12, bytes_moved=1e10, layer_calls=500)
    assert seconds(cost, layer_call_s=1e-3) == 2.0
    assert seconds(replace(cost, bytes_moved=5e10), layer_call_s=1e-3) == 5.0
    assert seconds(cost, layer_call_s=1e-2) == 5.0


def test_half_the_peak_takes_twice_as_long_but_launching_does_not() -> None:
    assert seconds(StageCost(flops=1e12), 0.5) == 2.0
    assert seconds(StageCost(bytes_moved=1e10), 0.5) == 2.0
    assert seconds(StageCost(layer_calls=1000), 0.5, layer_call_s=1e-3) == 1.0


def test_float32_has_a_peak_of_its_own() -> None:
    assert seconds(StageCost(flops=1e12), in_float32=True) == 4.0


@pytest.mark.parametrize("utilization", [0.0, -0.1, 1.1, float("nan")])
def test_a_utilization_that_is_no_fraction_is_refused(utilization: float) -> None:
    with pytest.raises(ConfigError, match="utilization is"):
        Machine(TOY, utilization=utilization)


@pytest.mark.parametrize(
    ("name", "found"),
    [("H100", "H100-SXM"), ("h100 sxm", "H100-SXM"), ("rtx 4090", "RTX-4090"), ("a100-80", "A100-80GB"), ("t4", "T4")],
)
def test_names_need_not_be_exact(name: str, found: str) -> None:
    assert find_gpu(name) is GPUS[found]


@pytest.mark.parametrize("name", ["TPU-v5", "A100", ""])
def test_unknown_and_ambiguous_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="A100-40GB, A100-80GB, H100-SXM, H200, L40S, RTX-4090, RTX-3090, T4"):
        find_gpu(name)


def test_a_gpu_without_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="memory_gb of GPU 'toy' is 0"):
        replace(TOY, memory_gb=0.0)


def test_an_unknown_gpu_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'V100' is not known; known are A100-40GB.*T4"):
        find_machine("V100")


def test_any_machine_by_its_numbers() -> None:
    machine = find_machine(None, tflops=100, memory_gb=32, bandwidth_gbs=500)
    assert (machine.gpu.memory_gb, machine.gpu.bandwidth_gbs) == (32, 500)
    assert find_machine("T4", memory_gb=32).gpu.tflops == 65
    assert find_machine(None).gpu.name == "H100-SXM"
    with pytest.raises(ConfigError, match="needs all of"):
        find_machine(None, tflops=100)
