"""In which precision a model is run while it samples."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def fastest_precision(model: Any) -> Iterator[None]:
    """Hold bfloat16 weights in float32 meanwhile, on a processor that has no instructions for bfloat16.

    There its matrix products are emulated and take several times as long as those of float32. The weights are the same
    numbers in float32; what is computed from them is rounded less. Costs 4 bytes a weight. Parameters themselves are
    not touched, so that an optimizer or DistributedDataParallel does not notice.
    """
    device = next(model.parameters()).device
    if device.type != "cpu" or _has_bfloat16() or getattr(model, "is_quantized", False):
        yield
        return
    replaced: list[tuple[nn.Module, str, Any]] = []
    copies: dict[int, Any] = {}  # tied weights are one parameter
    try:
        for module in model.modules():
            named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for name, tensor in named:
                if tensor.dtype == torch.bfloat16:
                    if id(tensor) not in copies:
                        copy = tensor.detach().float()
                        is_parameter = isinstance(tensor, nn.Parameter)
                        copies[id(tensor)] = nn.Parameter(copy, requires_grad=False) if is_parameter else copy
                    replaced.append((module, name, tensor))
                    setattr(module, name, copies[id(tensor)])
        yield
    finally:
        for module, name, tensor in replaced:
            setattr(module, name, tensor)


def _has_bfloat16() -> bool:
    """Whether matrix products of bfloat16 run on instructions of this processor; taken as given where it is no x86."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)() or {"avx512_bf16": True}  # PyTorch before 2.10
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
