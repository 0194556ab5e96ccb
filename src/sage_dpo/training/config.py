"""`SAGEConfig`: TRL's `DPOConfig` plus what SAGE adds. Every DPO argument keeps its meaning and default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from trl import DPOConfig

from sage_dpo.config import PoolSettings, SelectorSettings, validate
from sage_dpo.errors import ConfigError

_SELECTOR_FIELDS = tuple(SelectorSettings.model_fields)
_POOL_FIELDS = tuple(PoolSettings.model_fields)


def _field(settings: type[BaseModel], name: str, help_text: str) -> Any:
    """A dataclass field with the default that the settings record states."""
    default = settings.model_fields[name].default
    return field(default=default, metadata={"help": help_text})


@dataclass
class SAGEConfig(DPOConfig):
    """Arguments of `SAGETrainer`.

    `per_device_train_batch_size x gradient_accumulation_steps x processes` pairs are *trained on* per optimizer step,
    as in TRL. They are chosen among `1 / keep_ratio` times as many candidates, which are only scored.

    With `precompute_ref_log_probs=False` (TRL's default) the reference stays in memory and only completions that are
    trained on are run through it, once each. With `True` the whole data set is scored at the start and no reference
    model is kept.

    `max_length` excludes longer pairs, and says how many; TRL would cut them.

    `torch_compile=True` compiles the layers of the training step, not the model: accelerate's regional compilation with
    open shapes, unless accelerate's configuration names a dynamo backend of its own. Scoring runs the plain layers.

    Attributes:
        Fields of `sage_dpo.config.SelectorSettings` and `sage_dpo.config.PoolSettings`, same names, and
        score_token_budget: padded tokens per forward-only scoring batch and device.
        score_max_age: optimizer steps for which a completion's score is used again; 0 scores anew at every step.
        log_candidates: write every candidate's numbers to `output_dir/candidates/*.parquet` (`PairScore` records).
    """

    selector: str = _field(SelectorSettings, "selector", "all, random, lowest_margin, sage, or a registered name")
    keep_ratio: float = _field(SelectorSettings, "keep_ratio", "gamma: fraction of the candidates trained on")
    margin: str = _field(SelectorSettings, "margin", "confidence, implicit or implicit_normalized")
    margin_temperature: float = _field(SelectorSettings, "margin_temperature", "tau of length-normalized margins")
    implicit_beta: float | None = _field(SelectorSettings, "implicit_beta", "beta of the implicit margin")
    damping: float = _field(SelectorSettings, "damping", "lambda of the SAGE utility")
    length_normalized: bool = _field(SelectorSettings, "length_normalized", "divide by completion length")
    use_gradient_signal: bool = _field(SelectorSettings, "use_gradient_signal", "off: g = 1")
    use_curvature: bool = _field(SelectorSettings, "use_curvature", "off: h = 0")
    use_informativeness: bool = _field(SelectorSettings, "use_informativeness", "off: J = 1")
    label_noise: float = _field(SelectorSettings, "label_noise", "epsilon: fraction of pairs assumed to be mislabelled")
    label_confidence: float = _field(SelectorSettings, "label_confidence", "kappa: belief is sigma(kappa m)")
    cut_temperature: float = _field(SelectorSettings, "cut_temperature", "0: the best; T: drawn, weights S^(1/T)")
    random_share: float = _field(SelectorSettings, "random_share", "part of the kept places filled at random")
    boundary_width: float = _field(SelectorSettings, "boundary_width", "drop pairs with a smaller abs(margin)")
    cut: str = _field(SelectorSettings, "cut", "stratum or global")
    stratified: bool = _field(PoolSettings, "stratified", "draw candidates by difficulty stratum")
    easy_min: float = _field(PoolSettings, "easy_min", "success rate from which a problem is easy")
    hard_max: float = _field(PoolSettings, "hard_max", "success rate below which a problem is hard")
    schedule_start: list[float] | None = _field(PoolSettings, "schedule_start", "weights (easy, medium, hard)")
    schedule_end: list[float] | None = _field(PoolSettings, "schedule_end", "weights (easy, medium, hard)")
    schedule_by: str = _field(PoolSettings, "schedule_by", "progress or competence")
    competence_start: float = _field(PoolSettings, "competence_start", "competence at which the schedule begins")
    competence_target: float = _field(PoolSettings, "competence_target", "competence at which it ends")
    refresh_steps: int = _field(PoolSettings, "refresh_steps", "refresh the pool every so many steps; 0 never")
    score_token_budget: int = field(default=16384, metadata={"help": "padded tokens per scoring batch"})
    score_max_age: int = field(default=0, metadata={"help": "use scores again for so many steps; 0: score anew"})
    log_candidates: bool = field(default=True, metadata={"help": "write every candidate's numbers as Parquet"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.selector_settings()
        self.pool_settings()
        if self.score_token_budget < 1:
            raise ConfigError(f"score_token_budget is {self.score_token_budget}, expected at least 1")
        if self.score_max_age < 0:
            raise ConfigError(f"score_max_age is {self.score_max_age}, expected optimizer steps, 0 or more")
        if self.truncation_mode != "keep_start":
            raise ConfigError(
                f"truncation_mode is {self.truncation_mode!r}, but SAGE never truncates: pairs longer than max_length "
                "are excluded and counted; remove truncation_mode"
            )
        if self.auto_find_batch_size:
            raise ConfigError(
                "auto_find_batch_size would change how many pairs a step keeps; set it to False and lower "
                "per_device_train_batch_size by hand"
            )
        if self.sync_ref_model:
            raise ConfigError(
                "sync_ref_model moves the reference during training, so log-probabilities cached per completion would "
                "be stale; set sync_ref_model to False"
            )
        if self.ld_alpha is not None:
            raise ConfigError(
                "ld_alpha re-weights reference log-probabilities by pair, which SAGE caches by "
                "completion; set ld_alpha to None"
            )

    def selector_settings(self) -> SelectorSettings:
        """The selector's settings, validated."""
        values = {name: getattr(self, name) for name in _SELECTOR_FIELDS}
        values["implicit_beta"] = self.beta if self.implicit_beta is None else self.implicit_beta
        return validate(SelectorSettings, values, where="SAGEConfig")

    def pool_settings(self) -> PoolSettings:
        """The pool's settings, validated."""
        return validate(PoolSettings, {name: getattr(self, name) for name in _POOL_FIELDS}, where="SAGEConfig")
