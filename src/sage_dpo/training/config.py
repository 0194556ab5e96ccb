"""`SAGEConfig`: TRL's `DPOConfig` plus what SAGE adds. Every DPO argument keeps its meaning and default."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Any, TypeVar

from pydantic import BaseModel
from trl import DPOConfig

from sage_dpo.config import PoolSettings, ScoringSettings, SelectorSettings, validate, with_attributes
from sage_dpo.errors import ConfigError

_Section = TypeVar("_Section", bound=BaseModel)
_SECTIONS = (SelectorSettings, PoolSettings, ScoringSettings)
_LISTS = {"schedule_start": list[float] | None, "schedule_end": list[float] | None}
"""Types that `HfArgumentParser` can read from a command line, in place of tuples."""


def _fields(*sections: type[BaseModel]) -> list[tuple[str, Any, Any]]:
    """Return the sections' settings as fields of a dataclass: name, type, default and help."""
    settings = [item for section in sections for item in section.model_fields.items()]
    return [
        (name, _LISTS.get(name, info.annotation), field(default=info.default, metadata={"help": info.description}))
        for name, info in settings
    ]


_Settings: Any = make_dataclass("_Settings", _fields(*_SECTIONS))


@dataclass
class SAGEConfig(_Settings, DPOConfig):
    """Arguments of `SAGETrainer`.

    `per_device_train_batch_size x gradient_accumulation_steps x processes` pairs are *trained on* per optimizer step,
    as in TRL. They are chosen among `1 / keep_ratio` times as many candidates, which are only scored.

    With `precompute_ref_log_probs=False` (TRL's default) the reference stays in memory and only completions that are
    trained on are run through it, once each. With `True` the whole data set is scored at the start and no reference
    model is kept.

    `max_length` excludes longer pairs, and says how many; TRL would cut them.

    `torch_compile=True` compiles the layers of the training step, not the model: accelerate's regional compilation with
    open shapes, unless accelerate's configuration names a dynamo backend of its own. Scoring runs the plain layers.

    `log_candidates` writes every candidate's numbers to `output_dir/candidates/*.parquet` (`PairScore` records).
    """

    log_candidates: bool = field(default=True, metadata={"help": "Write every candidate's numbers as Parquet."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.selector_settings()
        self.pool_settings()
        self._section(ScoringSettings)
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
        beta = self.beta if self.implicit_beta is None else self.implicit_beta
        return self._section(SelectorSettings, implicit_beta=beta)

    def pool_settings(self) -> PoolSettings:
        """The pool's settings, validated."""
        return self._section(PoolSettings)

    def _section(self, section: type[_Section], **changes: Any) -> _Section:
        values = {name: getattr(self, name) for name in section.model_fields}
        return validate(section, {**values, **changes}, where="SAGEConfig")


SAGEConfig.__doc__ = with_attributes(SAGEConfig.__doc__, *_SECTIONS)
