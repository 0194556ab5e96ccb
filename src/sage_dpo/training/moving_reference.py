"""A reference that moves during training: noticed by its weights, whoever moves it, and kept with a checkpoint.

TRL moves it by `SyncRefModelCallback` (`sync_ref_model`) and by the BEMA callback of `trl.experimental`; any other
callback may. TRL saves neither a moved reference nor BEMA's averages with a checkpoint; here both are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.trainer_callback import CallbackHandler
from trl.trainer.callbacks import BEMACallback

from sage_dpo.errors import ConfigError
from sage_dpo.storage import atomic_path

_REFERENCE, _AVERAGES = "sage_reference_model.safetensors", "sage_bema.safetensors"
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ReferenceHandler(CallbackHandler):
    """transformers' handler that also hands callbacks the reference model, which BEMA updates."""

    def __init__(self, trainer: Any) -> None:
        plain = trainer.callback_handler
        super().__init__(plain.callbacks, plain.model, plain.processing_class, plain.optimizer, plain.lr_scheduler)
        self._trainer = trainer

    def call_event(self, event: str, *args: Any, **kwargs: Any) -> Any:
        return super().call_event(event, *args, **{"ref_model": self._trainer.ref_model, **kwargs})


class ReferenceWeights:
    """The weights of the reference, by which a move is noticed.

    Args:
        find: returns the reference; in adapter runs, whose reference is the frozen part, the policy.
        skip_trainable: leave trainable parameters out; for adapter runs.
        accelerator: of the trainer. With several processes, every method must be called on all of them.
    """

    def __init__(self, find: Callable[[], nn.Module], *, skip_trainable: bool, accelerator: Accelerator) -> None:
        self._find, self._skip_trainable, self._accelerator = find, skip_trainable, accelerator
        self._first: str | None = None

    def begin(self) -> None:
        """Take the weights as they are as those that have not moved; only the first call does."""
        self._first = self._first or self._digest()

    def moved(self) -> str:
        """Return what identifies the weights where they have moved since `begin`; empty if they have not."""
        digest = "" if self._first is None else self._digest()
        return "" if digest == self._first else digest

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights by name, on the CPU; not copied where they are there already."""
        return {name: value.detach().cpu().contiguous() for name, value in self._parameters()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self._parameters():
            value.copy_(state[name])

    def _parameters(self) -> Iterable[tuple[str, Tensor]]:
        for name, parameter in self._find().named_parameters():
            if not (self._skip_trainable and parameter.requires_grad):
                yield name, parameter

    def _digest(self) -> str:
        """Hash the sum of every parameter's bits: exact on every device, and as fast as memory is read."""
        sums = [_bits(value).sum(dtype=torch.int64).to(self._accelerator.device) for _, value in self._parameters()]
        total = torch.stack(sums) if sums else torch.zeros(1, dtype=torch.int64)
        if self._accelerator.num_processes > 1:  # a process may hold a shard that did not change
            total = self._accelerator.reduce(total)
        return hashlib.blake2b(total.cpu().numpy().tobytes(), digest_size=8).hexdigest()


def _bits(value: Tensor) -> Tensor:
    """Return a parameter's bits as integers, of 64 bits where they fit; of one that is sharded, this process's part."""
    local = getattr(value, "ds_tensor", value).detach()  # ZeRO-3
    local = (local.to_local() if hasattr(local, "to_local") else local).reshape(-1)  # FSDP
    if local.numel() * local.element_size() % 8 or not local.numel():
        return local.view(_INTEGERS[local.element_size()])
    aligned = local if local.data_ptr() % 8 == 0 else local.clone()  # weights that are read in place may stand anywhere
    return aligned.view(torch.int64)


def check_moving(callbacks: Iterable[Any], args: Any, *, keeps_reference: bool, is_sharded: bool) -> None:
    """Refuse a reference that is to move where there is none of its own, or where it cannot be kept.

    Raises:
        ConfigError: names what would move it.
    """
    movers = ["sync_ref_model"] if args.sync_ref_model else []
    movers += [type(callback).__name__ for callback in callbacks if getattr(callback, "update_ref_model", False)]
    if movers and not keeps_reference:
        raise ConfigError(
            f"{movers[0]} moves the reference, but precompute_ref_log_probs keeps none; set precompute_ref_log_probs "
            f"to False, or leave {movers[0]} out"
        )
    if movers and is_sharded:
        raise ConfigError(
            f"{movers[0]} moves the reference, which cannot be saved with a checkpoint where its weights are sharded "
            f"(FSDP, ZeRO-3); leave {movers[0]} out, or train without sharding"
        )


def save_moved(folder: str | Path, reference: dict[str, Tensor] | None, callbacks: Iterable[Any]) -> None:
    """Write a reference that has moved, and BEMA's averages, into the folder of a checkpoint."""
    for name, tensors in ((_REFERENCE, reference), (_AVERAGES, _averages(callbacks))):
        if tensors:
            with atomic_path(Path(folder) / name) as temporary:
                save_file({key: value.detach().cpu().clone() for key, value in tensors.items()}, temporary)


@torch.no_grad()
def load_moved(folder: str | Path, weights: ReferenceWeights, callbacks: Iterable[Any]) -> None:
    """Continue with the reference and the averages of a checkpoint, if they are in it."""
    if (Path(folder) / _REFERENCE).is_file():
        weights.load_state_dict(load_file(Path(folder) / _REFERENCE))
    averages = _averages(callbacks)
    if averages and (Path(folder) / _AVERAGES).is_file():
        for name, value in load_file(Path(folder) / _AVERAGES).items():
            averages[name].copy_(value)


def _averages(callbacks: Iterable[Any]) -> dict[str, Tensor]:
    """Return the tensors that BEMA callbacks update, by name; those of the last training where there were several."""
    result: dict[str, Tensor] = {}
    for number, callback in enumerate(c for c in callbacks if isinstance(c, BEMACallback)):
        if callback.running_model is None:
            continue
        for kind, tensors in (("start", callback.theta0_params), ("average", callback.ema_params)):
            rows = zip(callback.param_names, tensors, strict=True)
            result |= {f"{number}.{kind}.{name}": tensor for name, tensor in rows}
        running = callback.running_model.named_parameters()
        result |= {f"{number}.running.{name}": tensor for name, tensor in running}
    return result
