"""Which pairs are candidates at a step, and which of them are trained on. Symbols as in docs/method.md."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sage_dpo.config.section import Section

# chosen on probes of a fixed pool and of one that is refreshed; docs/log.md, "Gate"
DEFAULT_GATE_QUANTILE, DEFAULT_RENEWED_GATE_QUANTILE = 0.5, 0.8


class SelectorSettings(Section):
    """Which candidate pairs of an optimizer step are trained on."""

    selector: str = Field(
        "sage", description="`all`, `random`, `lowest_margin`, `highest_margin`, `sage`, or a registered name."
    )
    keep_ratio: float = Field(
        0.5, gt=0.0, le=1.0, description="gamma, the fraction of the candidates that is trained on."
    )
    margin: Literal["confidence", "implicit", "implicit_normalized"] = Field(
        "confidence", description="Margin of a pair: confidence m, implicit u (needs the reference), or u per token."
    )
    # Interpretation: the paper does not state tau; per-token log-probabilities of two answers differ by hundredths to
    # tenths of a nat, so that at tau = 1 every pair has g = 1/2 and h = 1/4 and the utility ranks by J alone.
    margin_temperature: float = Field(
        10.0,
        gt=0.0,
        allow_inf_nan=False,
        description="tau, scale of the confidence and the normalized implicit margin.",
    )
    implicit_beta: float | None = Field(
        None, gt=0.0, allow_inf_nan=False, description="beta of the implicit margin; none is the loss's beta."
    )
    damping: float = Field(
        0.01,
        ge=0.0,
        allow_inf_nan=False,
        description="lambda of the SAGE utility. At 0 informativeness cancels and the utility is exp(-margin).",
    )
    length_normalized: bool = Field(
        True, description="Divide log-probabilities (confidence margin) and J by completion length."
    )
    use_gradient_signal: bool = Field(True, description="Ablation: off, g = 1.")
    use_curvature: bool = Field(True, description="Ablation: off, h = 0.")
    use_informativeness: bool = Field(True, description="Ablation: off, J = 1.")
    label_noise: float = Field(
        0.0,
        ge=0.0,
        lt=0.5,
        description="epsilon, the fraction of pairs assumed to have chosen and rejected swapped. Above 0 the gradient "
        "signal is its expectation under that assumption, so that pairs the policy contradicts most are no longer "
        "preferred. `sage` only.",
    )
    label_confidence: float = Field(
        3.0,
        ge=1.0,
        allow_inf_nan=False,
        description="kappa, how much surer the policy is of an answer than its margin says; only with label_noise.",
    )
    gate: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Pairs with a margin above it are shut, as the policy ranks them surely already: no gradient, and "
        "nothing is run for them. In the margin's own scale; none leaves all pairs open.",
    )
    gate_quantile: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="The gate as a quantile of how sure the untuned policy is, abs(margin), over the first pool: free "
        "of tau and the task. 1 is no gate. None: for `sage` with the confidence margin, unless `gate` is given, 0.5 "
        "on a fixed pool and 0.8 where refreshes bring new pairs; no gate for other selectors.",
    )
    gate_mean: Literal["asked", "open"] = Field(
        "asked",
        description="The step's loss is the mean over the pairs `asked` for, shut ones counting 0, or the `open` ones.",
    )
    cut: Literal["stratum", "global"] = Field(
        "stratum", description="Keep the top fraction within each stratum, or over the whole batch."
    )

    @model_validator(mode="after")
    def _check(self) -> SelectorSettings:
        if self.selector == "all" and self.keep_ratio != 1.0:
            raise ValueError(f"selector is all with keep_ratio {self.keep_ratio}; set keep_ratio to 1.0")
        if self.gate is not None and self.gate_quantile is not None:
            raise ValueError("gate and gate_quantile are both set; set one of them to none")
        if self.quantile() is not None and self.margin != "confidence":
            raise ValueError(
                f"gate_quantile is set with margin {self.margin}, which is 0 for every pair of the untuned policy; set "
                "margin to confidence, or give gate"
            )
        if not self.use_curvature and self.damping == 0:
            raise ValueError(
                "damping is 0 with use_curvature off, so the utility g^2 J / (h J + damping) divides by zero; "
                "set damping > 0 or use_curvature to true"
            )
        return self

    def quantile(self, *, renewed: bool = False) -> float | None:
        """Return the quantile to calibrate the gate by; `None` where `gate` is given or there is no gate.

        Args:
            renewed: refreshes bring new pairs. What the untuned policy was sure of is soon too low a bar there.
        """
        if self.gate_quantile is not None:
            return None if self.gate_quantile == 1.0 else self.gate_quantile
        if self.gate is not None or self.selector != "sage" or self.margin != "confidence":
            return None
        return DEFAULT_RENEWED_GATE_QUANTILE if renewed else DEFAULT_GATE_QUANTILE

    @property
    def is_gated(self) -> bool:
        """Whether pairs with a large margin are shut."""
        return self.gate is not None or self.quantile() is not None


class PoolSettings(Section):
    """Strata, schedule and refresh of the candidate pool."""

    stratified: bool = Field(True, description="Draw candidates by difficulty stratum; off, the pool is one stratum.")
    easy_min: float = Field(0.7, gt=0.0, le=1.0, description="Success rate from which a problem is easy.")
    hard_max: float = Field(
        0.3, ge=0.0, lt=1.0, description="Success rate below which a problem is hard; between the two it is medium."
    )
    schedule_start: tuple[float, float, float] | None = Field(
        None, description="Weights (easy, medium, hard) at the start; none is proportional to occupancy."
    )
    schedule_end: tuple[float, float, float] | None = Field(None, description="The same at the end.")
    schedule_by: Literal["progress", "competence"] = Field(
        "progress", description="Position between the two: by training progress or by measured competence."
    )
    competence_start: float = Field(0.0, ge=0.0, le=1.0, description="Competence at which the schedule begins.")
    competence_target: float = Field(1.0, ge=0.0, le=1.0, description="Competence at which the schedule ends.")
    spent_share: float = Field(
        0.05,
        ge=0.0,
        lt=1.0,
        description="A gated pool is spent when over one pass through it at most this share of the candidates was "
        "open. It is then refreshed early where new pairs can be made, else training stops.",
    )
    refresh_steps: int = Field(0, ge=0, description="Refresh the pool every so many optimizer steps; 0 never.")

    @model_validator(mode="after")
    def _check(self) -> PoolSettings:
        if self.hard_max > self.easy_min:
            raise ValueError(f"hard_max is {self.hard_max}, above easy_min {self.easy_min}; lower hard_max")
        if self.competence_start >= self.competence_target:
            raise ValueError(
                f"competence_start is {self.competence_start}, not below competence_target {self.competence_target}"
            )
        for name in ("schedule_start", "schedule_end"):
            weights = getattr(self, name)
            if weights is None:
                continue
            if min(weights) < 0 or abs(sum(weights) - 1.0) > 1e-6:
                raise ValueError(f"{name} is {weights}, sum {sum(weights):g}; expected non-negative weights of sum 1")
        return self
