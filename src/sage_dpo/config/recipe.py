"""A whole recipe, and the recipe of each of its arms."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from sage_dpo.config.engines import LoraSyncSettings, ServerEngineSettings
from sage_dpo.config.sampling import (
    HeldOutProblemSettings,
    OnPolicyPairSettings,
    PairSettings,
    ProbeSettings,
    ProblemSettings,
    RolloutSettings,
    VerificationSettings,
)
from sage_dpo.config.section import Section, validate
from sage_dpo.config.selection import PoolSettings, SelectorSettings
from sage_dpo.config.training import EvaluationSettings, PolicySettings, TrainingSettings
from sage_dpo.errors import ConfigError


class ArmSettings(Section):
    """One arm of a comparison: what differs from the recipe's common sections."""

    train: bool = Field(True, description="False is the untuned policy, whatever the arm's name.")
    selection: dict[str, Any] = Field(default_factory=dict, description="Keys merged over the recipe's `selection`.")
    pool: dict[str, Any] = Field(default_factory=dict, description="Keys merged over the recipe's `pool`.")
    training: dict[str, Any] = Field(default_factory=dict, description="Keys merged over the recipe's `training`.")


class RunConfig(Section):
    """A whole recipe, validated."""

    name: str = Field(min_length=1, pattern=r"^\w[\w.-]*$", description="Name of the run and its folder.")
    seed: int = Field(0, ge=0, description="Seed of problems, rollouts, pairs and training.")
    output_dir: str = Field("runs", description="The run folder is `<output_dir>/<name>` unless `--output` names one.")
    policy: PolicySettings = Field(PolicySettings(), description="The policy to align.")
    problems: ProblemSettings | None = Field(None, description="Training problems; needed for pairs on policy.")
    probe: ProbeSettings | None = Field(
        None, description="Problems that are neither trained nor tested on; keys as in `problems`, or `held_out`."
    )
    rollouts: RolloutSettings = Field(RolloutSettings(), description="How completions are sampled.")
    verification: VerificationSettings = Field(VerificationSettings(), description="How answers are checked.")
    pairs: PairSettings = Field(OnPolicyPairSettings(), description="Where preference pairs come from.")
    pool: PoolSettings = Field(PoolSettings(), description="Strata, schedule and refresh of the candidate pool.")
    selection: SelectorSettings = Field(SelectorSettings(), description="Which candidates are trained on.")
    training: TrainingSettings = Field(TrainingSettings(), description="How an arm is trained.")
    evaluation: EvaluationSettings | None = Field(EvaluationSettings(), description="Suites to run; none runs none.")
    subject: str | None = Field(
        None, description="The arm with which every other is compared; none is the last trained one."
    )
    arms: dict[Annotated[str, Field(pattern=r"^\w[\w.@-]*$")], ArmSettings] = Field(
        default_factory=lambda: {"sage": ArmSettings()}, min_length=1, description="What is compared, by name."
    )

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.problems is None and isinstance(self.pairs, OnPolicyPairSettings):
            raise ValueError("pairs.kind is on_policy, which samples from problems; add a `problems` section")
        if self.problems is None and isinstance(self.probe, HeldOutProblemSettings):
            raise ValueError("probe.kind is held_out, a part of `problems`, which there are none of; add that section")
        if self.subject is not None and self.subject not in self.arms:
            raise ValueError(f"subject is {self.subject!r}, expected one of the arms: {', '.join(self.arms)}")
        for arm in self.arms:
            self.for_arm(arm)._check_sections(self.arms[arm].train)
        return self

    def _check_sections(self, is_trained: bool) -> None:
        """Raise on sections that contradict each other; called on each arm's own configuration."""
        if self.training.probe_steps and self.probe is None:
            raise ValueError("training.probe_steps is set but there is no `probe` section; add one or set it to 0")
        if is_trained and not self.training.probe_steps:
            if self.training.patience:
                raise ValueError(
                    f"training.patience is {self.training.patience}, counted in probes, but training.probe_steps is 0; "
                    "set probe_steps, or patience to 0"
                )
            if self.evaluation is not None and self.evaluation.at_best:
                raise ValueError(
                    "evaluation.at_best is on, but training.probe_steps is 0, so that no probe is the best; set "
                    "probe_steps, or at_best to false"
                )
        self._check_sync()
        if is_trained and self.policy.dtype in ("bfloat16", "float16") and self.policy.lora is None:
            raise ValueError(
                f"policy.dtype is {self.policy.dtype} without lora: small updates of half-precision weights round to "
                "nothing; set dtype to float32 (a GPU still computes in bf16), or add lora"
            )

    def _check_sync(self) -> None:
        """Raise where servers sample refreshes that they cannot follow."""
        if not isinstance(self.rollouts.engine, ServerEngineSettings):
            return
        sync = self.rollouts.engine.sync
        if sync is None and self.pool.refresh_steps:
            raise ValueError(
                f"rollouts.engine.kind is server without sync, a fixed policy, but pool.refresh_steps is "
                f"{self.pool.refresh_steps}; set rollouts.engine.sync, or refresh_steps to 0"
            )
        if isinstance(sync, LoraSyncSettings) and self.policy.lora is None:
            raise ValueError(
                "rollouts.engine.sync.kind is lora, but policy.lora is none: there is no adapter; set sync.kind to "
                "reload, or add policy.lora"
            )

    @property
    def trained_arms(self) -> list[str]:
        return [name for name, arm in self.arms.items() if arm.train]

    @property
    def subject_arm(self) -> str:
        """The arm with which every other is compared."""
        return self.subject or (self.trained_arms or list(self.arms))[-1]

    def for_arm(self, arm: str) -> RunConfig:
        """Return the configuration of one arm: its partial sections merged over the common ones.

        Raises:
            ConfigError: unknown arm, or an override that is not valid in its section.
        """
        if arm not in self.arms:
            raise ConfigError(f"arm {arm!r} is not in this recipe; known arms: {', '.join(self.arms)}")
        settings = self.arms[arm]
        merged = {}
        for section in ("selection", "pool", "training"):
            current: BaseModel = getattr(self, section)
            merged[section] = validate(
                type(current), {**current.model_dump(), **getattr(settings, section)}, where=f"arms.{arm}.{section}"
            )
        return self.model_copy(update=merged)
