"""`SAGEConfig`: TRL's `DPOConfig` plus what SAGE adds. Every DPO argument keeps its meaning and default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel
from trl import DPOConfig
from trl.trainer.utils import get_config_model_id

from sage_dpo.config import PoolSettings, ScoringSettings, SelectorSettings, redact, validate, with_attributes
from sage_dpo.errors import ConfigError
from sage_dpo.selection.settings import StreamSettings

_Section = TypeVar("_Section", bound=BaseModel)
_SECTIONS = (SelectorSettings, PoolSettings, ScoringSettings)


def _setting(section: type[BaseModel], name: str) -> Any:
    """Return a dataclass field with the default and the help that the section states."""
    info = section.model_fields[name]
    return field(default=info.default, metadata={"help": info.description})


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

    `fields` says which columns of the data hold what, where they are not TRL's, as `{"prompt": "question"}`.

    A checkpoint is resumed with the versions, machine, data and arguments it was written with; `accept_changes` names
    what may differ, as `args.learning_rate`, `versions.torch` or `machine`.

    `log_candidates` writes every candidate's numbers to `output_dir/candidates/*.parquet` (`PairScore` records).
    """

    selector: str = _setting(SelectorSettings, "selector")
    keep_ratio: float = _setting(SelectorSettings, "keep_ratio")
    margin: str = _setting(SelectorSettings, "margin")
    margin_temperature: float = _setting(SelectorSettings, "margin_temperature")
    implicit_beta: float | None = _setting(SelectorSettings, "implicit_beta")
    damping: float = _setting(SelectorSettings, "damping")
    length_normalized: bool = _setting(SelectorSettings, "length_normalized")
    use_gradient_signal: bool = _setting(SelectorSettings, "use_gradient_signal")
    use_curvature: bool = _setting(SelectorSettings, "use_curvature")
    use_informativeness: bool = _setting(SelectorSettings, "use_informativeness")
    label_noise: float = _setting(SelectorSettings, "label_noise")
    label_confidence: float = _setting(SelectorSettings, "label_confidence")
    gate: float | None = _setting(SelectorSettings, "gate")
    gate_quantile: float | None = _setting(SelectorSettings, "gate_quantile")
    gate_mean: str = _setting(SelectorSettings, "gate_mean")
    cut: str = _setting(SelectorSettings, "cut")
    stratified: bool = _setting(PoolSettings, "stratified")
    easy_min: float = _setting(PoolSettings, "easy_min")
    hard_max: float = _setting(PoolSettings, "hard_max")
    schedule_start: list[float] | None = _setting(PoolSettings, "schedule_start")
    schedule_end: list[float] | None = _setting(PoolSettings, "schedule_end")
    schedule_by: str = _setting(PoolSettings, "schedule_by")
    competence_start: float = _setting(PoolSettings, "competence_start")
    competence_target: float = _setting(PoolSettings, "competence_target")
    spent_share: float = _setting(PoolSettings, "spent_share")
    refresh_steps: int = _setting(PoolSettings, "refresh_steps")
    score_token_budget: int = _setting(ScoringSettings, "score_token_budget")
    score_max_age: int = _setting(ScoringSettings, "score_max_age")
    fields: dict[str, str] | None = field(
        default=None, metadata={"help": "Which columns hold prompt, chosen, rejected, ..., as {'prompt': 'question'}."}
    )
    accept_changes: list[str] | None = field(
        default=None,
        metadata={
            "help": "What may differ from a checkpoint that is resumed, as args.learning_rate or versions.torch."
        },
    )
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
        if self.enable_jit_checkpoint:
            raise ConfigError(
                "enable_jit_checkpoint writes a checkpoint that callbacks do not complete; set save_steps, and "
                "enable_jit_checkpoint to False"
            )
        if self.train_sampling_strategy == "sequential":
            raise ConfigError(
                "train_sampling_strategy is 'sequential', but SAGE draws candidates in shuffled cycles; leave "
                "train_sampling_strategy out"
            )
        parallel = self.parallelism_config
        for kind in ("tp", "cp", "sp"):
            if getattr(parallel, f"{kind}_size", 1) > 1:
                raise ConfigError(
                    f"parallelism_config has {kind}_size {getattr(parallel, f'{kind}_size')}, but SAGE gives every "
                    f"process pairs of its own, whole; set {kind}_size to 1"
                )
        if getattr(self.accelerator_config, "split_batches", False):
            raise ConfigError(
                "accelerator_config has split_batches, but SAGE takes per_device_train_batch_size for each process; "
                "set split_batches to False and divide per_device_train_batch_size"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Hide secrets (`hub_token`): the trainer saves its arguments with every checkpoint, pickled."""
        return {name: redact(value, name) if isinstance(value, str) else value for name, value in vars(self).items()}

    def selector_settings(self) -> SelectorSettings:
        """The selector's settings, validated."""
        beta = self.beta if self.implicit_beta is None else self.implicit_beta
        return self._section(SelectorSettings, implicit_beta=beta)

    def pool_settings(self) -> PoolSettings:
        """The pool's settings, validated."""
        return self._section(PoolSettings)

    def stream_settings(self, *, keep: int, eos_token_id: int | None, processes: int, process: int) -> StreamSettings:
        """The settings of the selection step on one of `processes` processes that keep `keep` pairs a step together."""
        return StreamSettings(
            selector=self.selector_settings(),
            pool=self.pool_settings(),
            keep=keep,
            seed=self.seed if self.data_seed is None else self.data_seed,
            max_length=self.max_length,
            eos_token_id=eos_token_id,
            score_max_age=self.score_max_age,
            groups_by_length=not {"aot", "aot_unpaired"} & set(self.loss_type),  # they compare a microbatch's pairs
            ld_alpha=self.ld_alpha,
            processes=processes,
            process=process,
        )

    def _section(self, section: type[_Section], **changes: Any) -> _Section:
        values = {name: getattr(self, name) for name in section.model_fields}
        return validate(section, {**values, **changes}, where="SAGEConfig")


SAGEConfig.__doc__ = with_attributes(SAGEConfig.__doc__, *_SECTIONS)


def default_output_dir(model: Any) -> str:
    """Return the folder of a run without arguments, as TRL names it: the model's name and the method's."""
    name = model if isinstance(model, str) else get_config_model_id(model.config)
    return f"{name.rstrip('/').split('/')[-1]}-SAGE"
