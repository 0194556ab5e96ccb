"""Log-probabilities -> preference margins, and the DPO loss of a margin.

L(y) = log pi(y|x) and L0(y) = log pi_ref(y|x), summed over completion tokens, nats; n the completion length in tokens.
All functions are differentiable; half-precision inputs are computed in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def implicit_margin(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, *, beta: float
) -> Tensor:
    """Return the implicit DPO reward margin of each pair.

    u = beta [(L(y+) - L0(y+)) - (L(y-) - L0(y-))]

    Args:
        chosen_logps, rejected_logps: `[N]` log-probability under the policy, summed over completion tokens, nats.
        ref_chosen_logps, ref_rejected_logps: the same under the reference.
        beta: scale, > 0.

    Returns:
        `[N]`, scaled nats; 0 for every pair while the policy equals the reference.

    Raises:
        ValueError: shapes differ, or beta is not positive.

    Source: Rafailov et al. 2023, arXiv:2305.18290, the argument of sigma in Eq. 7.
    """
    _check_positive("beta", beta)
    chosen, rejected, ref_chosen, ref_rejected = _aligned(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    return beta * ((chosen - ref_chosen) - (rejected - ref_rejected))


def normalized_implicit_margin(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    temperature: float,
) -> Tensor:
    """Return the implicit margin with each response's log-ratio divided by its length.

    tau [(L(y+) - L0(y+)) / n+ - (L(y-) - L0(y-)) / n-]

    Args:
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: as in `implicit_margin`.
        chosen_lengths, rejected_lengths: `[N]` completion lengths in tokens, >= 1.
        temperature: tau, > 0.

    Raises:
        ValueError: shapes differ, a length is below 1, or temperature is not positive.

    Source: length normalisation of responses is the paper's (arXiv:2602.01207); this form is our reading.
    """
    chosen, rejected, ref_chosen, ref_rejected = _aligned(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    return confidence_margin(
        chosen - ref_chosen, rejected - ref_rejected, chosen_lengths, rejected_lengths, temperature=temperature
    )


def confidence_margin(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    temperature: float,
    length_normalized: bool = True,
) -> Tensor:
    """Return the policy's own preference for the chosen response; no reference is needed.

    m = tau [L(y+) / n+ - L(y-) / n-];  without length normalisation  m = tau [L(y+) - L(y-)]

    Args:
        chosen_logps, rejected_logps: `[N]` log-probability under the policy, summed over completion tokens, nats.
        chosen_lengths, rejected_lengths: `[N]` completion lengths in tokens, >= 1.
        temperature: tau, > 0.
        length_normalized: whether to divide by the lengths.

    Returns:
        `[N]`, scaled nats (per token); negative when the policy prefers the rejected response.

    Raises:
        ValueError: shapes differ, a length is below 1, or temperature is not positive.

    Source: the length-normalised likelihood margin of SimPO (Meng et al. 2024, arXiv:2405.14734).
    Interpretation: the SAGE paper does not state which margin it scores; we default to this one because it tells
    pairs apart from step 0, where every implicit margin is 0.
    """
    _check_positive("temperature", temperature)
    chosen, rejected, chosen_n, rejected_n = _aligned(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    if not length_normalized:
        return temperature * (chosen - rejected)
    check_lengths("chosen_lengths", chosen_lengths)
    check_lengths("rejected_lengths", rejected_lengths)
    return temperature * (chosen / chosen_n - rejected / rejected_n)


def dpo_loss(margin: Tensor) -> Tensor:
    """Return the DPO loss of each pair, -log sigma(margin) = softplus(-margin); finite for any finite margin.

    Source: Rafailov et al. 2023, arXiv:2305.18290, Eq. 7.
    """
    return -F.logsigmoid(margin)


def check_lengths(name: str, lengths: Tensor) -> None:
    """Raise `ValueError` if a completion length is below 1."""
    if lengths.numel() and bool((lengths < 1).any()):
        row = int(torch.nonzero(lengths.flatten() < 1)[0, 0])
        raise ValueError(f"{name}[{row}] is {lengths.flatten()[row].item()}, expected >= 1 token; drop empty responses")


def _check_positive(name: str, value: float) -> None:
    if not value > 0 or value == float("inf"):
        raise ValueError(f"{name} is {value}, expected a finite number > 0")


def _aligned(**columns: Tensor) -> tuple[Tensor, ...]:
    """Return the columns in one floating dtype, at least float32; `ValueError` unless all have one shape."""
    shapes = {name: tuple(column.shape) for name, column in columns.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"columns have shapes {shapes}, expected the same shape for all; pass one value per pair")
    # float32 at least: bf16 keeps 3 digits, and a margin is a small difference of sums in the hundreds.
    dtype = torch.float32
    for column in columns.values():
        if column.is_floating_point():
            dtype = torch.promote_types(dtype, column.dtype)
    return tuple(column.to(dtype) for column in columns.values())
