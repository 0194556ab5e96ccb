from __future__ import annotations

import numpy as np
import pytest

from sage_dpo.core.statistics import (
    bootstrap_interval,
    gradient_snr_from_norms,
    mean_at_k,
    paired_difference_interval,
    seed_interval,
)


def test_mean_at_k_by_hand() -> None:
    assert mean_at_k([0, 2, 8], 8).tolist() == [0.0, 0.25, 1.0]
    assert mean_at_k([1, 1], [2, 4]).tolist() == [0.5, 0.25]


def test_bootstrap_covers_a_known_mean_at_about_its_confidence() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = bootstrap_interval(rng.random(200) < 0.4, seed=trial, resamples=400)
        hits += interval.low <= 0.4 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99  # nominal 0.95, standard error 0.015


def test_bootstrap_width_matches_the_standard_error() -> None:
    # 95 % interval of a mean of 400 values of variance 1/4: 2 * 1.96 * 0.5 / 20 = 0.098
    values = np.arange(400) % 2
    interval = bootstrap_interval(values, seed=1, resamples=4000)
    assert interval.estimate == 0.5
    assert interval.high - interval.low == pytest.approx(0.098, rel=0.08)


def test_bootstrap_is_determined_by_its_seed() -> None:
    values = np.random.default_rng(2).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=np.random.default_rng(3))
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_groups_weigh_equally_whatever_their_size() -> None:
    # suite a: 1 over 90 problems, suite b: 0 over 10; the macro average is 1/2 with no uncertainty at all
    values, groups = np.repeat([1.0, 0.0], [90, 10]), np.repeat(["a", "b"], [90, 10])
    interval = bootstrap_interval(values, groups=groups, seed=0)
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)


def test_pairing_removes_the_difficulty_of_the_problems() -> None:
    rng = np.random.default_rng(5)
    baseline = rng.random(300)
    interval = paired_difference_interval(baseline + 0.01, baseline, seed=0)
    assert interval.estimate == pytest.approx(0.01)
    assert interval.low > 0.0099
    assert interval.high < 0.0101


def test_swapping_the_arms_mirrors_the_difference() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.random(40), rng.random(40)
    forward, backward = (paired_difference_interval(*x, seed=0) for x in ((a, b), (b, a)))
    assert forward.low == pytest.approx(-backward.high)
    assert forward.high == pytest.approx(-backward.low)


def test_seed_interval_of_two_by_hand() -> None:
    # mean 2, s = sqrt(2), s / sqrt(2) = 1, t(1) at 97.5 % = 12.7062
    interval = seed_interval([1.0, 3.0])
    assert interval.estimate == 2.0
    assert interval.high - 2.0 == pytest.approx(12.7062, abs=1e-4)
    assert 2.0 - interval.low == pytest.approx(12.7062, abs=1e-4)


def test_seed_interval_of_five_by_hand() -> None:
    # 1..5: mean 3, s^2 = 10 / 4, s / sqrt(5) = sqrt(1/2), t(4) at 97.5 % = 2.77645
    interval = seed_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval.estimate == 3.0
    assert interval.high - 3.0 == pytest.approx(2.77645 * 0.5**0.5, abs=1e-5)


def test_seed_interval_at_another_confidence() -> None:
    # t(1) is the Cauchy distribution: its 75 % quantile is 1
    assert seed_interval([1.0, 3.0], confidence=0.5).high == pytest.approx(3.0)


def test_seed_interval_covers_a_known_mean_at_its_confidence() -> None:
    rng = np.random.default_rng(9)
    hits = 0
    for _ in range(2000):
        interval = seed_interval(rng.normal(0.7, 0.2, size=3))
        hits += interval.low <= 0.7 <= interval.high
    assert 0.935 <= hits / 2000 <= 0.965  # nominal 0.95, standard error 0.005; the normal quantile would give 0.81


def test_one_seed_has_no_interval() -> None:
    interval = seed_interval([0.4])
    assert (interval.low, interval.estimate, interval.high) == (-np.inf, 0.4, np.inf)


def test_equal_seeds_have_an_interval_of_no_width() -> None:
    assert seed_interval([0.5, 0.5, 0.5]) == seed_interval([0.5, 0.5])


@pytest.mark.parametrize("values", [[], [0.1, np.nan], [np.inf], [[0.1, 0.2]]])
def test_seeds_without_a_finite_value_each_are_rejected(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected \[n\] finite numbers"):
        seed_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_seed_confidence_out_of_range_is_rejected(confidence: float) -> None:
    with pytest.raises(ValueError, match=f"confidence is {confidence}"):
        seed_interval([0.1, 0.2], confidence=confidence)


def gradient_snr(gradients: np.ndarray) -> float:
    """From the stack `[n, d]` of gradients themselves."""
    return gradient_snr_from_norms((gradients**2).sum(axis=1), float((gradients.mean(axis=0) ** 2).sum()))


def test_gradient_snr_by_hand() -> None:
    # (3, 1), (1, 1): mean (2, 1), |mean|^2 = 5; trace of the covariance = 1 + 1 = 2 (n - 1 = 1)
    # signal = 5 - 2/2 = 4; SNR = 4 / 2. From norms: mean(10, 2) = 6; noise 2 (6 - 5) = 2
    assert gradient_snr(np.array([[3.0, 1.0], [1.0, 1.0]])) == pytest.approx(2.0)
    assert gradient_snr_from_norms([10.0, 2.0], 5.0) == pytest.approx(2.0)


def test_gradient_snr_recovers_its_true_value_without_bias() -> None:
    # |E G|^2 = 50 * 0.2^2 = 2, tr Cov = 50: SNR 0.04; the naive |mean|^2 / noise would give 0.04 + 1/16 = 0.10
    rng = np.random.default_rng(7)
    estimates = [gradient_snr(rng.normal(0.2, 1.0, size=(16, 50))) for _ in range(500)]
    assert np.mean(estimates) == pytest.approx(0.04, abs=0.005)


def test_gradient_snr_does_not_depend_on_scale_and_is_infinite_without_noise() -> None:
    rows = np.random.default_rng(8).normal(1.0, 1.0, size=(8, 20))
    assert gradient_snr(rows) == pytest.approx(gradient_snr(rows * 1e-3))
    assert gradient_snr(np.ones((4, 3))) == np.inf
    assert np.isnan(gradient_snr(np.zeros((4, 3))))


def test_invalid_input_is_rejected() -> None:
    with pytest.raises(ValueError, match="0 <= correct <= samples"):
        mean_at_k([3], [2])
    with pytest.raises(ValueError, match="P >= 1"):
        bootstrap_interval([], seed=0)
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval([0.0, np.nan], seed=0)
    with pytest.raises(ValueError, match="confidence=1"):
        bootstrap_interval([0.0], seed=0, confidence=1.0)
    with pytest.raises(ValueError, match="pair them by problem"):
        paired_difference_interval([0.0], [0.0, 1.0], seed=0)
    with pytest.raises(ValueError, match="n >= 2"):
        gradient_snr_from_norms([3.0], 3.0)
    with pytest.raises(ValueError, match="Jensen"):
        gradient_snr_from_norms([1.0, 1.0], 2.0)
