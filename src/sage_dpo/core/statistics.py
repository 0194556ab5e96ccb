"""Statistics of evaluations and gradients: avg@k, intervals over problems and over seeds, gradient noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

_CHUNK = 4_000_000  # resampled indices held at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A point estimate and its percentile bootstrap interval."""

    estimate: float
    low: float
    high: float


def mean_at_k(correct_counts: ArrayLike, sample_counts: ArrayLike) -> NDArray[np.float64]:
    """Return avg@k of each problem: correct / sampled completions. Its mean over problems is a suite's accuracy.

    Args:
        correct_counts: `[P]` correct completions c of each problem.
        sample_counts: `[P]` or a scalar: completions n of each problem, >= 1.

    Raises:
        ValueError: not 0 <= c <= n, or n < 1.
    """
    correct, samples = _counts(correct_counts, sample_counts)
    return correct / samples


def bootstrap_interval(
    values: ArrayLike,
    *,
    seed: int | np.random.Generator,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean over problems with its percentile bootstrap interval, resampling problems with replacement.

    With groups (benchmark suites) the estimate is the unweighted mean of the groups' means, and problems are
    resampled within their group.

    Args:
        values: `[P]` one value per problem (its avg@k), P >= 1.
        seed: seed or generator.
        groups: `[P]` group labels.
        resamples: number of bootstrap resamples.
        confidence: in (0, 1).

    Raises:
        ValueError: values are empty or not finite, shapes differ, or a setting is out of range.

    Source: Efron 1979; percentile interval. It covers the choice of problems, not the randomness of training.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"values have shape {data.shape}, expected [P] finite numbers with P >= 1")
    if resamples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(f"resamples={resamples}, confidence={confidence}; expected >= 1 and a number in (0, 1)")
    labels = np.zeros(data.size, dtype=np.int8) if groups is None else np.asarray(groups)
    if labels.shape != data.shape:
        raise ValueError(f"groups have shape {labels.shape} for {data.size} values, expected one label per value")
    rng = np.random.default_rng(seed)
    parts = [data[labels == label] for label in np.unique(labels)]
    means = np.mean([_resampled_means(part, resamples, rng) for part in parts], axis=0)
    low, high = np.quantile(means, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return Interval(float(np.mean([part.mean() for part in parts])), float(low), float(high))


def paired_difference_interval(
    treatment: ArrayLike,
    baseline: ArrayLike,
    *,
    seed: int | np.random.Generator,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean of treatment - baseline over the same problems, with its bootstrap interval.

    Pairing by problem removes the problems' own difficulty from the interval. Arguments and errors otherwise as for
    `bootstrap_interval`.
    """
    first, second = np.asarray(treatment, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"treatment has shape {first.shape}, baseline {second.shape}; pair them by problem first")
    return bootstrap_interval(first - second, seed=seed, groups=groups, resamples=resamples, confidence=confidence)


def seed_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the mean over independent seeds with its Student t interval.

    For a paired comparison pass the differences, one per seed: mean +- t(n - 1) s / sqrt(n).

    Args:
        values: `[n]` one finite number per seed, n >= 1. One seed has no interval: both bounds are infinite.
        confidence: in (0, 1).

    Raises:
        ValueError: values are empty or not finite, or confidence is out of range.

    Source: Student 1908. It assumes that the seeds' values are roughly normal.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not np.isfinite(data).all() or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"values have shape {data.shape}, confidence is {confidence}; expected [n] finite numbers, n >= 1, and a "
            "number in (0, 1)"
        )
    mean = float(data.mean())
    if data.size == 1:
        return Interval(mean, -np.inf, np.inf)
    half = float(stdtrit(data.size - 1, 0.5 + confidence / 2.0) * data.std(ddof=1) / np.sqrt(data.size))
    return Interval(mean, mean - half, mean + half)


def gradient_snr_from_norms(squared_norms: ArrayLike, squared_norm_of_mean: float) -> float:
    """Return the gradient's signal-to-noise ratio from norms alone, so that no stack of gradients is ever stored.

    noise  = tr Cov(G) = n/(n-1) (mean_i |G_i|^2 - |mean_i G_i|^2)
    signal = |E G|^2   = |mean_i G_i|^2 - noise / n
    SNR    = signal / noise

    Both are unbiased, so the estimate of a gradient that is pure noise scatters around 0 and may be negative.
    1 / SNR is the "simple noise scale", in units of the samples' own batch size.

    Args:
        squared_norms: `[n]` |G_i|^2 of n independent samples, n >= 2.
        squared_norm_of_mean: |mean_i G_i|^2, at most the mean of `squared_norms`.

    Returns:
        The ratio; infinite when the samples are all equal and not 0, NaN when all are 0.

    Raises:
        ValueError: n < 2, or the norms contradict each other.

    Source: McCandlish et al. 2018, arXiv:1812.06162, Eq. 2.9 and appendix A.1. Interpretation: the SAGE paper reports
    lower gradient variance without a formula known to us.
    """
    norms = np.asarray(squared_norms, dtype=np.float64)
    if norms.ndim != 1 or norms.size < 2:
        raise ValueError(f"squared_norms have shape {norms.shape}, expected [n] with n >= 2 gradient samples")
    mean = float(norms.mean())
    if not 0.0 <= squared_norm_of_mean <= mean * (1 + 1e-9):
        raise ValueError(f"squared norm of the mean is {squared_norm_of_mean}, expected within [0, {mean}] (Jensen)")
    noise = max(0.0, mean - squared_norm_of_mean) * norms.size / (norms.size - 1)
    signal = squared_norm_of_mean - noise / norms.size
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(signal) / np.float64(noise))


def _counts(correct_counts: ArrayLike, sample_counts: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    correct = np.asarray(correct_counts, dtype=np.float64)
    samples = np.asarray(sample_counts, dtype=np.float64)
    if correct.ndim != 1 or correct.size == 0 or samples.shape not in ((), correct.shape):
        raise ValueError(f"correct_counts are {correct.shape}, sample_counts {samples.shape}, expected [P] with P >= 1")
    samples = np.broadcast_to(samples, correct.shape)
    if not ((samples >= 1) & (correct >= 0) & (correct <= samples)).all():
        raise ValueError("expected 0 <= correct <= samples and samples >= 1 for every problem; recount the verdicts")
    return correct, samples


def _resampled_means(values: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    rows = max(1, _CHUNK // values.size)
    sizes = [min(rows, resamples - begun) for begun in range(0, resamples, rows)]
    return np.concatenate([values[rng.integers(values.size, size=(n, values.size))].mean(axis=1) for n in sizes])
