from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from sage_dpo.core.margins import confidence_margin, dpo_loss
from sage_dpo.core.utility import (
    curvature,
    gradient_signal,
    log_gradient_signal,
    log_sage_utility,
    pair_informativeness,
    sage_utility,
    token_informativeness,
)

EXTREMES = torch.tensor([-1e4, -800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 800.0, 1e4], dtype=torch.float64)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_signal_and_curvature_by_hand() -> None:
    # sigma(-log 3) = 1/4; sigma(log 3) sigma(-log 3) = 3/4 * 1/4 = 3/16; at 0: 1/2 and 1/4
    margin = tensor(math.log(3), 0.0)
    assert gradient_signal(margin).tolist() == pytest.approx([1 / 4, 1 / 2])
    assert curvature(margin).tolist() == pytest.approx([3 / 16, 1 / 4])


def test_signal_and_curvature_are_the_derivatives_of_the_dpo_loss() -> None:
    margin = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(dpo_loss(margin).sum(), margin, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), margin)
    torch.testing.assert_close(gradient_signal(margin), -first)
    torch.testing.assert_close(curvature(margin), second)


def test_log_signal_without_noise_is_the_log_of_sigma_of_minus_m() -> None:
    margin = torch.linspace(-6, 6, 25, dtype=torch.float64)
    torch.testing.assert_close(log_gradient_signal(margin, label_noise=0.0), torch.sigmoid(-margin).log())


def test_noisy_signal_by_hand() -> None:
    # m = log 3: sigma = 3/4. epsilon = 1/4: Z = 3/4 * 3/4 + 1/4 * 1/4 = 5/8; (1 - 1/2) * 3/16 / (5/8) = 3/20
    # m = -log 3: Z = 3/4 * 1/4 + 1/4 * 3/4 = 3/8; (3/32) / (3/8) = 1/4
    margin = tensor(math.log(3), -math.log(3))
    assert gradient_signal(margin, label_noise=1 / 4).tolist() == pytest.approx([3 / 20, 1 / 4])


@given(st.floats(-20, 20), st.floats(1e-6, 0.499))
def test_noisy_signal_is_the_expectation_over_the_label(margin: float, noise: float) -> None:
    right, wrong = torch.sigmoid(tensor(margin)), torch.sigmoid(tensor(-margin))
    label_is_right = (1 - noise) * right / ((1 - noise) * right + noise * wrong)
    expected = label_is_right * wrong - (1 - label_is_right) * right
    torch.testing.assert_close(gradient_signal(tensor(margin), label_noise=noise), expected, rtol=1e-5, atol=1e-12)


def test_noisy_signal_approaches_the_clean_one() -> None:
    margin = torch.linspace(-5, 5, 21, dtype=torch.float64)
    torch.testing.assert_close(gradient_signal(margin, label_noise=1e-12), gradient_signal(margin))


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3, 0.45])
def test_noisy_signal_is_largest_at_half_the_log_odds_of_noise(noise: float) -> None:
    peak = math.log(noise / (1 - noise)) / 2
    margin = (peak + torch.linspace(-4, 4, 81, dtype=torch.float64)).requires_grad_()
    logs = log_gradient_signal(margin, label_noise=noise)
    assert int(logs.argmax()) == 40
    assert (logs.diff()[:40] > 0).all()
    assert (logs.diff()[40:] < 0).all()
    (slope,) = torch.autograd.grad(logs[40], margin)
    assert float(slope[40]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("noise", [1e-12, 0.2, 0.4999])
def test_noisy_log_signal_and_its_gradient_are_finite_at_extremes(noise: float) -> None:
    margin = EXTREMES.clone().requires_grad_()
    logs = log_gradient_signal(margin, label_noise=noise)
    logs.sum().backward()
    assert torch.isfinite(logs).all()
    assert margin.grad is not None
    assert torch.isfinite(margin.grad).all()


@pytest.mark.parametrize("noise", [-0.01, 0.5, 1.0, math.nan])
def test_label_noise_out_of_range_is_rejected(noise: float) -> None:
    with pytest.raises(ValueError, match=r"expected 0 <= label_noise < 0\.5"):
        log_gradient_signal(tensor(0.0), label_noise=noise)


def test_surer_belief_by_hand() -> None:
    # kappa = 2, epsilon = 1/4, m = log 3: odds of the label 3^2 * 3 = 27, t = 27/28; t - sigma(m) = 27/28 - 3/4 = 3/14
    signal = gradient_signal(tensor(math.log(3)), label_noise=1 / 4, label_confidence=2.0)
    assert signal.tolist() == pytest.approx([3 / 14])


def test_where_the_label_is_likelier_wrong_than_the_policy_the_signal_is_nothing() -> None:
    # kappa = 2, epsilon = 1/4: below m = -log 3. At -log 9: t = 3/81 / (1 + 3/81) = 1/28 < sigma(m) = 1/10
    margin = tensor(-math.log(9), -math.log(3) - 1e-3, -math.log(3) + 1e-3)
    signal = gradient_signal(margin, label_noise=1 / 4, label_confidence=2.0)
    assert signal[:2].tolist() == [0.0, 0.0]
    assert signal[2] > 0


def test_pairs_whose_label_is_likelier_wrong_come_last_least_negative_first() -> None:
    margin = tensor(-2.0, -1.5, -1.2, -1.0, 3.0)  # t - sigma(m) is negative for the first three, least for -1.2
    logs = log_gradient_signal(margin, label_noise=1 / 4, label_confidence=2.0)
    assert logs[:3].max() < logs[3:].min()
    assert logs[2] > logs[1] > logs[0]


@pytest.mark.parametrize("confidence", [1.0, 3.0])
def test_surer_belief_is_finite_at_extremes(confidence: float) -> None:
    assert torch.isfinite(log_gradient_signal(EXTREMES, label_noise=0.2, label_confidence=confidence)).all()


@pytest.mark.parametrize("confidence", [0.99, -1.0, math.nan])
def test_label_confidence_below_one_is_rejected(confidence: float) -> None:
    with pytest.raises(ValueError, match="label_confidence >= 1"):
        log_gradient_signal(tensor(0.0), label_noise=0.1, label_confidence=confidence)


def test_token_informativeness_by_hand() -> None:
    # p = (1/2, 1/4, 1/4): sum of squares 3/8. Target 1/2: 1 - 1 + 3/8; target 1/4: 1 - 1/2 + 3/8
    logps, squares = tensor(math.log(1 / 2), math.log(1 / 4)), tensor(3 / 8, 3 / 8)
    assert token_informativeness(logps, squares).tolist() == pytest.approx([3 / 8, 7 / 8])


def test_token_informativeness_is_zero_when_certain_and_two_at_most() -> None:
    # certain and right: 0. Certain of another token: 1 - 0 + 1 = 2
    assert token_informativeness(tensor(0.0, -1e4), tensor(1.0, 1.0)).tolist() == [0.0, 2.0]


def test_token_informativeness_is_never_negative_in_float32() -> None:
    logits = torch.randn(4096, 50, generator=torch.Generator().manual_seed(0)) * 30
    logps = logits.log_softmax(-1)
    values = token_informativeness(logps.max(-1).values, (2 * logps).exp().sum(-1))
    assert (values >= 0).all()
    # a sum of squares rounded to just below p^2 = 1: 1 - 2 + (1 - 6e-8) would be negative
    assert token_informativeness(torch.tensor([0.0]), torch.tensor([1.0 - 2**-24])).tolist() == [0.0]


def response_informativeness(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Sum over the tokens of a response: logits `[T, V]`, ids `[T]`."""
    logps = logits.log_softmax(-1)
    return token_informativeness(logps.gather(-1, token_ids[:, None]).squeeze(-1), (2 * logps).exp().sum(-1)).sum()


def test_informativeness_is_the_squared_gradient_norm_of_the_log_probability() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    token_ids = torch.randint(11, (7,), generator=generator)
    logp = logits.log_softmax(-1).gather(-1, token_ids[:, None]).sum()
    (gradient,) = torch.autograd.grad(logp, logits)
    torch.testing.assert_close(response_informativeness(logits.detach(), token_ids), (gradient**2).sum())


def test_unnormalized_pair_informativeness_is_the_squared_gradient_norm_of_the_margin() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = [torch.randn(n, 9, generator=generator, dtype=torch.float64, requires_grad=True) for n in (4, 6)]
    ids = [torch.randint(9, (n,), generator=generator) for n in (4, 6)]
    logps = [x.log_softmax(-1).gather(-1, y[:, None]).sum() for x, y in zip(logits, ids, strict=True)]
    lengths = tensor(4.0), tensor(6.0)
    margin = confidence_margin(logps[0][None], logps[1][None], *lengths, temperature=1.0, length_normalized=False)
    gradients = torch.autograd.grad(margin.sum(), logits)
    sums = [response_informativeness(x.detach(), y)[None] for x, y in zip(logits, ids, strict=True)]
    pair = pair_informativeness(sums[0], sums[1], *lengths, length_normalized=False)
    torch.testing.assert_close(pair, torch.stack([(g**2).sum() for g in gradients]).sum()[None])


def test_pair_informativeness_by_hand() -> None:
    # 6 / 4 + 5 / 10 = 2; without lengths 6 + 5 = 11
    columns = tensor(6), tensor(5), tensor(4), tensor(10)
    assert pair_informativeness(*columns).tolist() == [2.0]
    assert pair_informativeness(*columns, length_normalized=False).tolist() == [11.0]


def test_utility_by_hand() -> None:
    # m = log 3: g = 1/4, h = 3/16. J = 2, lambda = 1/8: (1/16 * 2) / (3/16 * 2 + 1/8) = (1/8) / (1/2) = 1/4
    margin, informativeness = tensor(math.log(3)), tensor(2.0)
    assert sage_utility(margin, informativeness, damping=1 / 8).tolist() == pytest.approx([1 / 4])
    # J = 1: (1/16) / (3/16 + 1/8) = 1/5;  h = 0: (1/8) / (1/8) = 1;  g = 1: 2 / (1/2) = 4
    assert sage_utility(margin, None, damping=1 / 8).tolist() == pytest.approx([1 / 5])
    assert sage_utility(margin, informativeness, damping=1 / 8, use_curvature=False).tolist() == pytest.approx([1.0])
    assert sage_utility(margin, informativeness, damping=1 / 8, use_gradient_signal=False).tolist() == pytest.approx(
        [4]
    )


def test_utility_is_the_damped_newton_decrement() -> None:
    # Loss gradient -g v, metric h v v' + lambda I, J = |v|^2: decrement^2 = g^2 v' (h v v' + lambda I)^-1 v
    generator = torch.Generator().manual_seed(4)
    for value in (-3.0, -0.2, 0.0, 1.7):
        margin, v = tensor(value), torch.randn(12, generator=generator, dtype=torch.float64)
        g, h, damping = gradient_signal(margin), curvature(margin), 0.3
        metric = h * torch.outer(v, v) + damping * torch.eye(12, dtype=torch.float64)
        decrement = g**2 * (v @ torch.linalg.solve(metric, v))
        torch.testing.assert_close(sage_utility(margin, (v @ v)[None], damping=damping), decrement)


def test_undamped_utility_is_exp_of_minus_the_margin() -> None:
    margin = torch.linspace(-30, 30, 61, dtype=torch.float64)
    informativeness = torch.rand(61, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    torch.testing.assert_close(sage_utility(margin, informativeness, damping=0.0), torch.exp(-margin))
    tiny = log_sage_utility(margin, informativeness + 0.1, damping=1e-30)
    torch.testing.assert_close(tiny, -margin, rtol=0, atol=1e-9)  # and so is the limit of small damping


def test_noisy_utility_by_hand() -> None:
    # m = -log 3, epsilon = 1/4: g = 1/4, h = 3/16. J = 2, lambda = 1/8: (1/16 * 2) / (3/16 * 2 + 1/8) = 1/4
    # lambda = 0: g^2 / h = (1/16) / (3/16) = 1/3
    margin, informativeness = tensor(-math.log(3)), tensor(2.0)
    assert sage_utility(margin, informativeness, damping=1 / 8, label_noise=1 / 4).tolist() == pytest.approx([1 / 4])
    assert sage_utility(margin, informativeness, damping=0.0, label_noise=1 / 4).tolist() == pytest.approx([1 / 3])


def test_undamped_noisy_utility_is_the_limit_of_small_damping() -> None:
    margin = torch.linspace(-20, 20, 41, dtype=torch.float64)
    undamped, tiny = (log_sage_utility(margin, None, damping=d, label_noise=0.1) for d in (0.0, 1e-30))
    torch.testing.assert_close(undamped, tiny, rtol=0, atol=1e-9)


def test_noise_does_not_matter_where_the_gradient_signal_is_off() -> None:
    margin = tensor(-2.0, 0.3, 4.0)
    for damping in (0.0, 0.5):
        clean, noisy = (
            log_sage_utility(margin, None, damping=damping, use_gradient_signal=False, label_noise=e) for e in (0, 0.2)
        )
        torch.testing.assert_close(clean, noisy)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_noisy_log_utility_is_finite_at_extremes(damping: float) -> None:
    logs = log_sage_utility(EXTREMES, torch.ones_like(EXTREMES), damping=damping, label_noise=0.2)
    assert torch.isfinite(logs).all()


def test_with_noise_the_most_contradicted_pair_is_not_the_best() -> None:
    clean, noisy = (log_sage_utility(tensor(-30.0, -1.0), None, damping=0.1, label_noise=e) for e in (0.0, 0.1))
    assert clean[0] > clean[1]
    assert noisy[0] < noisy[1]


@given(
    st.floats(-15, 15),
    st.floats(0.01, 20),
    st.floats(1e-3, 4),
    st.one_of(st.just(0.0), st.floats(1e-6, 1e3)),
)
def test_utility_falls_strictly_in_the_margin(margin: float, step: float, j: float, damping: float) -> None:
    # d log S / d log g = (g J + 2 lambda) / (h J + lambda) > 0 and g falls in m. The range keeps h above rounding.
    pair = tensor(margin, margin + step)
    logs = log_sage_utility(pair, torch.full_like(pair, j), damping=damping)
    assert logs[0] > logs[1]


@given(st.floats(-1e4, 1e4), st.floats(0, 1e3), st.floats(0, 4), st.floats(0, 1e6))
def test_utility_never_rises_in_the_margin_however_extreme(m: float, step: float, j: float, damping: float) -> None:
    logs = log_sage_utility(tensor(m, m + step), tensor(j, j), damping=damping)
    assert not torch.isnan(logs).any()
    assert logs[0] >= logs[1] - 1e-9


@given(st.floats(-15, 15), st.floats(0.01, 4), st.floats(0.01, 4), st.floats(1e-3, 1e3))
def test_damped_utility_rises_in_informativeness(margin: float, j: float, more: float, damping: float) -> None:
    # d S / d J = g^2 lambda / (h J + lambda)^2 > 0
    assume(more > 1e-6)
    logs = log_sage_utility(tensor(margin, margin), tensor(j, j + more), damping=damping)
    assert logs[1] > logs[0]


@pytest.mark.parametrize("damping", [0.0, 1e-12, 1.0, 1e6])
@pytest.mark.parametrize("use_gradient_signal", [True, False])
def test_log_utility_is_finite_and_untied_at_extreme_margins(damping: float, use_gradient_signal: bool) -> None:
    ones = torch.ones_like(EXTREMES)
    logs = log_sage_utility(EXTREMES, ones, damping=damping, use_gradient_signal=use_gradient_signal)
    assert torch.isfinite(logs).all()
    assert torch.isfinite(sage_utility(EXTREMES, ones, damping=damping)).all()
    if use_gradient_signal:
        assert (logs[4:].diff() < 0).all()  # S itself would be 0 for both 800 and 1e4: a false tie


def test_gradient_of_log_utility_is_finite_at_extremes() -> None:
    margin = EXTREMES.clone().requires_grad_()
    log_sage_utility(margin, torch.ones_like(margin), damping=0.1).sum().backward()
    assert margin.grad is not None
    assert torch.isfinite(margin.grad).all()


def test_a_pair_without_informativeness_has_utility_zero() -> None:
    assert sage_utility(tensor(-5.0), tensor(0.0), damping=0.1).tolist() == [0.0]


def test_constants_switch_terms_off() -> None:
    margin = tensor(-2.0, 0.3, 4.0)
    g, h = gradient_signal(margin), curvature(margin)
    torch.testing.assert_close(sage_utility(margin, None, damping=0.5, use_curvature=False), g**2 / 0.5)
    torch.testing.assert_close(sage_utility(margin, None, damping=0.5, use_gradient_signal=False), 1 / (h + 0.5))
    torch.testing.assert_close(sage_utility(margin, None, damping=0.0, use_gradient_signal=False), 1 / h)


def test_invalid_input_is_rejected() -> None:
    margin = tensor(0.0, 1.0)
    with pytest.raises(ValueError, match="damping is -1"):
        log_sage_utility(margin, None, damping=-1.0)
    with pytest.raises(ValueError, match=r"damping is 0.*> 0 when curvature is off"):
        log_sage_utility(margin, None, damping=0.0, use_curvature=False)
    with pytest.raises(ValueError, match="1 informativeness values are negative"):
        log_sage_utility(margin, tensor(1.0, -1.0), damping=1.0)
    with pytest.raises(ValueError, match="expected the same"):
        log_sage_utility(margin, tensor(1.0), damping=1.0)
    with pytest.raises(ValueError, match="one value per token"):
        token_informativeness(margin, tensor(1.0))
    with pytest.raises(ValueError, match="expected the same for all"):
        pair_informativeness(margin, margin, margin, tensor(1.0))
