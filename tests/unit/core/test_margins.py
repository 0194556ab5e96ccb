from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sage_dpo.core.margins import confidence_margin, dpo_loss, implicit_margin, normalized_implicit_margin


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_implicit_margin_by_hand() -> None:
    # 0.1 * [(-10 - -12) - (-20 - -15)] = 0.1 * [2 - (-5)] = 0.7
    margin = implicit_margin(tensor(-10), tensor(-20), tensor(-12), tensor(-15), beta=0.1)
    assert margin.tolist() == pytest.approx([0.7])


def test_implicit_margin_is_zero_when_policy_equals_reference() -> None:
    chosen, rejected = tensor(-3.2, -100.0, -0.01), tensor(-7.0, -2.0, -55.5)
    assert implicit_margin(chosen, rejected, chosen, rejected, beta=0.5).tolist() == [0.0, 0.0, 0.0]


def test_normalized_implicit_margin_by_hand() -> None:
    # 2 * [(-10 - -12) / 4 - (-20 - -15) / 10] = 2 * [0.5 + 0.5] = 2
    margin = normalized_implicit_margin(
        tensor(-10), tensor(-20), tensor(-12), tensor(-15), tensor(4), tensor(10), temperature=2.0
    )
    assert margin.tolist() == pytest.approx([2.0])


def test_confidence_margin_by_hand() -> None:
    # 3 * [-8 / 4 - -10 / 20] = 3 * [-2 + 0.5] = -4.5; without lengths 3 * [-8 + 10] = 6
    columns = tensor(-8), tensor(-10), tensor(4), tensor(20)
    assert confidence_margin(*columns, temperature=3.0).tolist() == pytest.approx([-4.5])
    assert confidence_margin(*columns, temperature=3.0, length_normalized=False).tolist() == pytest.approx([6.0])


def test_integer_lengths_are_accepted() -> None:
    margin = confidence_margin(tensor(-8), tensor(-10), torch.tensor([4]), torch.tensor([20]), temperature=1.0)
    assert margin.tolist() == pytest.approx([-1.5])


def test_repeating_a_response_leaves_the_normalized_margin_unchanged() -> None:
    once = confidence_margin(tensor(-8), tensor(-10), tensor(4), tensor(20), temperature=1.0)
    twice = confidence_margin(tensor(-16), tensor(-10), tensor(8), tensor(20), temperature=1.0)
    assert once.tolist() == twice.tolist()


@given(st.lists(st.floats(-1e4, 0), min_size=4, max_size=4), st.floats(1e-3, 10))
def test_swapping_the_responses_negates_every_margin(logps: list[float], scale: float) -> None:
    a, b, ra, rb = (tensor(x) for x in logps)
    n, k = tensor(3), tensor(7)
    forward = implicit_margin(a, b, ra, rb, beta=scale), confidence_margin(a, b, n, k, temperature=scale)
    swapped = implicit_margin(b, a, rb, ra, beta=scale), confidence_margin(b, a, k, n, temperature=scale)
    assert [x.item() for x in forward] == [-x.item() for x in swapped]


def test_half_precision_is_computed_in_float32() -> None:
    # bf16 keeps 8 bits: -85.33 + 14.29 would come out as -71 there, not -71.05.
    chosen, rejected = torch.tensor([-256.0], dtype=torch.bfloat16), torch.tensor([-100.0], dtype=torch.bfloat16)
    margin = confidence_margin(chosen, rejected, torch.tensor([3]), torch.tensor([7]), temperature=1.0)
    assert margin.dtype == torch.float32
    assert margin.item() == pytest.approx(-256 / 3 + 100 / 7, rel=1e-6)


def test_margin_gradient_is_the_inverse_length() -> None:
    # d m / d L(y+) = tau / n+ = 2 / 4, d m / d L(y-) = -tau / n- = -2 / 5
    chosen, rejected = tensor(-8).requires_grad_(), tensor(-10).requires_grad_()
    confidence_margin(chosen, rejected, tensor(4), tensor(5), temperature=2.0).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((0.5, -0.4))


def test_dpo_loss_by_hand_and_at_the_extremes() -> None:
    # -log sigma(0) = log 2; -log sigma(log 3) = log(1 + 1/3); linear on the left, 0 on the right
    margins = tensor(0.0, math.log(3), -1e4, 1e4).requires_grad_()
    loss = dpo_loss(margins)
    assert loss.tolist() == pytest.approx([math.log(2), math.log(4 / 3), 1e4, 0.0])
    loss.sum().backward()
    assert margins.grad is not None
    assert margins.grad.tolist() == pytest.approx([-0.5, -0.25, -1.0, 0.0])


def test_invalid_input_is_rejected() -> None:
    one, two = tensor(-1), tensor(-1, -2)
    with pytest.raises(ValueError, match="beta is 0"):
        implicit_margin(one, one, one, one, beta=0.0)
    with pytest.raises(ValueError, match=r"ref_rejected_logps.*same shape"):
        implicit_margin(one, one, one, two, beta=0.1)
    with pytest.raises(ValueError, match="temperature is -1"):
        confidence_margin(one, one, -one, -one, temperature=-1.0)
    with pytest.raises(ValueError, match=r"rejected_lengths\[1\] is 0.*drop empty"):
        confidence_margin(two, two, tensor(1, 1), tensor(3, 0), temperature=1.0)
