"""What a resumed training is compared by."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sage_dpo.training.resume import device_name


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_a_device_without_a_name_of_its_own_is_named_by_its_kind(kind: str) -> None:
    assert device_name(torch.device(kind)) == kind


def test_a_gpu_is_named_as_its_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = SimpleNamespace(get_device_name=lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch, "get_device_module", lambda device: driver)
    assert device_name(torch.device("cuda", 1)) == "GPU 1"
