"""Margin -> gradient signal, curvature, informativeness and the SAGE utility of a pair.

The pair's loss is -log sigma(m). Its gradient in logit space is -g v with v the gradient of m, its Gauss-Newton
matrix h v v', and J = |v|^2. The squared Newton decrement under the damped metric h v v' + lambda I is then, by the
Sherman-Morrison formula, g^2 J / (h J + lambda): the SAGE utility.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sage_dpo.core.margins import check_lengths


def gradient_signal(margin: Tensor, *, label_noise: float = 0.0, label_confidence: float = 1.0) -> Tensor:
    """Return g = sigma(-m) = |d loss / d m|, in (0, 1): near 1 where the policy is wrong, near 0 where it is right.

    With label noise epsilon, the expectation of g over whether the pair's label is right, 0 where that is negative; see
    `log_gradient_signal`.
    """
    logs = log_gradient_signal(margin, label_noise=label_noise, label_confidence=label_confidence)
    return torch.where(logs > _LOG_NOTHING, logs.exp(), 0.0)


_LOG_NOTHING = -1e5
"""Stands for the logarithm of an expected gradient that is not positive; below any other at margins up to 1e4."""


def log_gradient_signal(margin: Tensor, *, label_noise: float = 0.0, label_confidence: float = 1.0) -> Tensor:
    """Return log g; with label noise epsilon > 0, log of the gradient's expectation under the label's posterior.

    Let a fraction epsilon of the pairs have chosen and rejected swapped, and let sigma(kappa m) be the policy's belief
    that the chosen answer is the better one. Then the label is right with probability t, and the expected gradient is

        t   = sigma(kappa m + log((1 - epsilon) / epsilon))
        g_e = t sigma(-m) - (1 - t) sigma(m)  =  t - sigma(m)  =  sigma(-m) - (1 - t)

    which is sigma(-m) at epsilon = 0. At kappa = 1 it is (1 - 2 epsilon) sigma(m) sigma(-m) / Z with
    Z = (1 - epsilon) sigma(m) + epsilon sigma(-m), positive everywhere and largest at
    m = log(epsilon / (1 - epsilon)) / 2. At kappa > 1 it is negative below
    m = -log((1 - epsilon) / epsilon) / (kappa - 1): there the label is likelier wrong than the policy. Such pairs get
    `_LOG_NOTHING` + g_e, so that they come last, least negative first.

    Args:
        margin: any shape, finite.
        label_noise: epsilon in [0, 0.5).
        label_confidence: kappa >= 1, how much surer the policy is about an answer than its margin says.

    Raises:
        ValueError: label_noise or label_confidence is out of range.

    Interpretation: ours; the paper does not treat noise. t is Bayes' rule with the policy as the prior.
    """
    if not 0.0 <= label_noise < 0.5 or not label_confidence >= 1.0:
        raise ValueError(
            f"label_noise is {label_noise}, label_confidence {label_confidence}; expected 0 <= label_noise < 0.5 and "
            "label_confidence >= 1"
        )
    log_g = F.logsigmoid(-margin)
    if label_noise == 0.0:
        return log_g
    log_odds = math.log1p(-label_noise) - math.log(label_noise)
    log_wrong = F.logsigmoid(-(label_confidence * margin + log_odds))  # log (1 - t)
    expected = log_g.exp() - log_wrong.exp()
    positive = log_g + torch.log(-torch.expm1((log_wrong - log_g).clamp_max(-1e-300)))
    return torch.where(log_wrong < log_g, positive, _LOG_NOTHING + expected)


def curvature(margin: Tensor) -> Tensor:
    """Return h = sigma(m) sigma(-m) = d^2 loss / d m^2, in (0, 1/4]: largest at the decision boundary m = 0."""
    return torch.sigmoid(margin) * torch.sigmoid(-margin)


def token_informativeness(target_logps: Tensor, sum_sq_probs: Tensor) -> Tensor:
    """Return each token's informativeness, the squared norm of its log-probability's gradient in its logits.

    |onehot(y_t) - p_t|^2 = 1 - 2 p_t(y_t) + sum_v p_t(v)^2 = (1 - p_t(y_t))^2 + (sum_v p_t(v)^2 - p_t(y_t)^2)

    The last form is computed: it cannot turn negative where the token is nearly certain.

    Args:
        target_logps: log p_t(y_t), any shape, nats.
        sum_sq_probs: sum over the vocabulary of p_t(v)^2, same shape.

    Returns:
        Same shape, in [0, 2).

    Raises:
        ValueError: shapes differ.
    """
    if target_logps.shape != sum_sq_probs.shape:
        raise ValueError(
            f"target_logps have shape {tuple(target_logps.shape)}, sum_sq_probs {tuple(sum_sq_probs.shape)}, "
            "expected one value per token in both"
        )
    others = (sum_sq_probs - (2.0 * target_logps).exp()).clamp_min(0.0)
    return torch.expm1(target_logps) ** 2 + others


def pair_informativeness(
    chosen_sum: Tensor,
    rejected_sum: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    length_normalized: bool = True,
) -> Tensor:
    """Return J of each pair: the two responses' informativeness, per token each, added.

    J = sum_t(y+) / n+ + sum_t(y-) / n-;  without length normalisation  J = sum_t(y+) + sum_t(y-)

    Args:
        chosen_sum, rejected_sum: `[N]` sums over completion tokens of `token_informativeness`.
        chosen_lengths, rejected_lengths: `[N]` completion lengths in tokens, >= 1.
        length_normalized: whether to divide by the lengths.

    Raises:
        ValueError: shapes differ, or a length is below 1.

    Interpretation: without normalisation J is exactly the squared gradient norm of L(y+) - L(y-) in logit space. The
    length-normalised margin's own squared norm divides by n^2, which would rank short responses first whatever
    they teach; dividing by n makes J the mean over tokens, comparable across lengths. tau is left out of J:
    it rescales J for all pairs alike, which lambda absorbs.
    """
    shapes = [tuple(c.shape) for c in (chosen_sum, rejected_sum, chosen_lengths, rejected_lengths)]
    if len(set(shapes)) > 1:
        raise ValueError(f"informativeness sums and lengths have shapes {shapes}, expected the same for all")
    if not length_normalized:
        return chosen_sum + rejected_sum
    check_lengths("chosen_lengths", chosen_lengths)
    check_lengths("rejected_lengths", rejected_lengths)
    return chosen_sum / chosen_lengths + rejected_sum / rejected_lengths


def log_sage_utility(
    margin: Tensor,
    informativeness: Tensor | None,
    *,
    damping: float,
    use_gradient_signal: bool = True,
    use_curvature: bool = True,
    label_noise: float = 0.0,
    label_confidence: float = 1.0,
) -> Tensor:
    """Return log S of each pair; this, not S, is what selectors sort by.

    S = g^2 J / (h J + lambda),  log S = 2 log g + log J - log(h J + lambda)

    In logarithms nothing overflows or underflows for |m| up to 1e4 and beyond, where S itself would be infinite or 0
    for many pairs at once and so tie them. At lambda = 0, J cancels and log S = 2 log g - log h = -m.

    Args:
        margin: `[N]` finite.
        informativeness: `[N]` J >= 0; `None` switches it off (J = 1).
        damping: lambda >= 0; must be > 0 when curvature is off.
        use_gradient_signal: off sets g = 1.
        use_curvature: off sets h = 0.
        label_noise, label_confidence: see `log_gradient_signal`.

    Returns:
        `[N]`; -inf where J = 0 and lambda > 0 (such a pair teaches nothing).

    Raises:
        ValueError: damping is invalid, shapes differ, or some J is negative.

    Source: the Newton decrement, signal against curvature, is the paper's idea (arXiv:2602.01207); its exact score is
    not public to us. This form is derived as in the module's docstring.
    """
    if not (math.isfinite(damping) and damping >= 0) or (damping == 0 and not use_curvature):
        raise ValueError(
            f"damping is {damping} with use_curvature={use_curvature}, expected a finite number >= 0, and > 0 "
            "when curvature is off"
        )
    if informativeness is not None and informativeness.shape != margin.shape:
        raise ValueError(
            f"margin has shape {tuple(margin.shape)}, informativeness {tuple(informativeness.shape)}, expected the same"
        )
    if informativeness is not None and bool((informativeness < 0).any()):
        raise ValueError(
            f"{int((informativeness < 0).sum())} informativeness values are negative, expected >= 0; "
            "sum token_informativeness over completion tokens"
        )
    zero = torch.zeros_like(margin)
    noise = {"label_noise": label_noise, "label_confidence": label_confidence}
    log_g = log_gradient_signal(margin, **noise) if use_gradient_signal else zero
    log_h = F.logsigmoid(margin) + F.logsigmoid(-margin)
    log_j = zero if informativeness is None else informativeness.to(margin.dtype).log()
    if damping == 0:
        if use_gradient_signal and label_noise == 0:
            return -margin  # 2 log g - log h, where the sum of logsigmoids would lose -m to rounding at large |m|
        return 2.0 * log_g - log_h
    log_damping = torch.full_like(margin, math.log(damping))
    denominator = torch.logaddexp(log_h + log_j, log_damping) if use_curvature else log_damping
    return 2.0 * log_g + log_j - denominator


def sage_utility(
    margin: Tensor,
    informativeness: Tensor | None,
    *,
    damping: float,
    use_gradient_signal: bool = True,
    use_curvature: bool = True,
    label_noise: float = 0.0,
    label_confidence: float = 1.0,
) -> Tensor:
    """Return S = g^2 J / (h J + lambda) of each pair, clamped to the dtype's finite range; for logs and people.

    Arguments and errors as for `log_sage_utility`, which is what to sort by.
    """
    logs = log_sage_utility(
        margin,
        informativeness,
        damping=damping,
        use_gradient_signal=use_gradient_signal,
        use_curvature=use_curvature,
        label_noise=label_noise,
        label_confidence=label_confidence,
    )
    return logs.exp().clamp_max(torch.finfo(logs.dtype).max)
