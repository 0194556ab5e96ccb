"""Reference log-probabilities, computed once per completion and kept.

Keyed by (reference fingerprint, prompt ids, completion ids), not by pair: a completion that serves in several pairs,
or comes back after a refresh, is looked up.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sage_dpo.errors import DataError
from sage_dpo.forward import TokenizedCompletion

KEY_BYTES = 16


class ReferenceCache:
    """A mapping from completions to their log-probability under the reference.

    Args:
        fingerprint: identifies the reference model (`model_fingerprint`).
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._values: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, completion: TokenizedCompletion) -> bool:
        return completion_key(completion, self.fingerprint) in self._values

    def add(self, completions: Sequence[TokenizedCompletion], logps: NDArray[np.float64]) -> None:
        for completion, value in zip(completions, logps.tolist(), strict=True):
            self._values[completion_key(completion, self.fingerprint)] = value

    def get(
        self,
        completions: Sequence[TokenizedCompletion],
        compute: Callable[[Sequence[TokenizedCompletion]], NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """Return `[N]` log-probabilities; `compute` is called with the distinct ones not yet known."""
        missing = [c for c in dict.fromkeys(completions) if c not in self]
        if missing:
            self.add(missing, compute(missing))
        return np.array([self._values[completion_key(c, self.fingerprint)] for c in completions], dtype=np.float64)

    def state_dict(self) -> dict[str, Any]:
        """Return the fingerprint and, as arrays, `keys` `[N, 16]` and `values` `[N]`."""
        keys = np.frombuffer(b"".join(self._values), dtype=np.uint8).reshape(-1, KEY_BYTES)
        values = np.array(list(self._values.values()), dtype=np.float64)
        return {"keys": keys, "values": values, "fingerprint": np.array(self.fingerprint)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add what another cache of the same reference held.

        Raises:
            DataError: it belongs to another reference model.
        """
        fingerprint = str(state["fingerprint"])
        if fingerprint != self.fingerprint:
            raise DataError(
                f"the checkpoint holds log-probabilities of reference {fingerprint}, this run's is "
                f"{self.fingerprint}; resume with the model the run was started with"
            )
        self._values |= {
            key.tobytes(): value for key, value in zip(state["keys"], state["values"].tolist(), strict=True)
        }


def completion_key(completion: TokenizedCompletion, salt: str = "") -> bytes:
    """Return 16 bytes that identify a completion of a prompt; the boundary between the two counts."""
    digest = hashlib.blake2b(salt.encode(), digest_size=KEY_BYTES)
    digest.update(len(completion.prompt_ids).to_bytes(8, "little"))
    digest.update(np.array(completion.prompt_ids + completion.completion_ids, dtype=np.int32).tobytes())
    return digest.digest()


def model_fingerprint(model: nn.Module, *, skip_trainable: bool = False, samples_per_tensor: int = 1024) -> str:
    """Return a short hash of the weights: every parameter's name, shape, and evenly spaced values.

    Sampled rather than complete, so that a 70B model takes seconds. Weights that FSDP or ZeRO-3 spreads over processes
    are gathered, one at a time: each process must call this.

    Args:
        model: the reference, or the policy before its first step.
        skip_trainable: leave trainable parameters out; for adapter runs, whose reference is the frozen part.
        samples_per_tensor: values read of each parameter.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        if skip_trainable and parameter.requires_grad:
            continue
        with _whole(parameter) as value:
            digest.update(f"{name}{tuple(value.shape)}".encode())
            flat = value.reshape(-1)
            step = max(1, flat.numel() // samples_per_tensor)
            digest.update(flat[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _whole(parameter: nn.Parameter) -> Iterator[Tensor]:
    """Yield all values of a parameter, also where processes hold parts of it."""
    value: Any = parameter.detach()
    if hasattr(value, "full_tensor"):  # FSDP
        yield value.full_tensor()
    elif hasattr(parameter, "ds_shape") and value.shape != parameter.ds_shape:  # ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            yield parameter.detach()
    else:
        yield value


def have_same_weights(first: nn.Module, other: nn.Module) -> bool:
    """Return whether two models in this process have the same parameters, every value compared."""
    mine, theirs = dict(first.named_parameters()), dict(other.named_parameters())
    return mine.keys() == theirs.keys() and all(
        value.dtype == theirs[name].dtype and torch.equal(value, theirs[name].to(value.device))
        for name, value in mine.items()
    )
