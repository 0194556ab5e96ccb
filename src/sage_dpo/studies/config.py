"""What a study file may say. A study is a recipe, what varies over it, and what is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sage_dpo.config import ArmSettings, Section, find_study, read_yaml, validate
from sage_dpo.errors import ConfigError

_NAME = r"^\w[\w.-]*$"

Outcome = str
"""`arm`; `arm:80` for what it could do after 80 optimizer steps, `arm:best` at its best probe; `condition/arm` reaches
into a condition."""

BEST = "best"  # what stands for a step where the step is that of the best probe


class ConditionSettings(Section):
    """One value of what varies over all arms together: policy, amount of data, noise."""

    name: str = Field(pattern=_NAME, description="Name of the folder and of the table's row.")
    x: float | None = Field(None, description="Place on the plot's axis; none if the conditions have no order.")
    set: dict[str, Any] = Field(
        default_factory=dict, description="Overrides of the recipe, dotted keys as in `sage-dpo run --set`."
    )
    arms: list[str] | None = Field(None, description="The arms that take part; none is all of them.")


ArmKey = Annotated[str, Field(pattern=r"^(selection|pool|training)\.\w+$")]
"""A setting that an arm can have for itself, as `training.learning_rate`."""


class SweepSettings(Section):
    """One key of some arms, over several values: arm `sage` becomes `sage@0.25`, `sage@0.5`, ..."""

    key: ArmKey = Field(
        description="Dotted, in an arm's section, as `training.learning_rate` or `selection.keep_ratio`."
    )
    values: list[float] = Field(min_length=1, description="Numbers that it takes.")
    arms: list[str] = Field(min_length=1, description="Which arms are swept; the others stay as they are.")
    label: str = Field("", description="Axis of the plot.")
    linked: dict[ArmKey, list[float]] = Field(
        default_factory=dict, description="Further keys that go along, each with one value for each of `values`."
    )

    @model_validator(mode="after")
    def _check(self) -> SweepSettings:
        uneven = {key: len(values) for key, values in self.linked.items() if len(values) != len(self.values)}
        if uneven:
            raise ValueError(f"linked gives {uneven} values for {len(self.values)} of {self.key}; give as many")
        return self


Analysis = Literal["selection_quality", "gradient_noise", "time_to_quality", "tuning", "drift"]


class StudyConfig(Section):
    """A study, validated."""

    name: str = Field(pattern=_NAME, description="Name of its folder and files.")
    title: str = Field(description="Heading of its table.")
    recipe: str = Field(description="Path of the recipe, relative to the study file.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        min_length=1,
        description="Each gives every arm its own problems, rollouts and order of pairs; the suites are the same.",
    )
    set: dict[str, Any] = Field(default_factory=dict, description="Overrides of the recipe for all runs.")
    arms: dict[str, ArmSettings | None] = Field(
        default_factory=dict,
        description="Added to the recipe's arms, or changing those of the same name key by key; `null` removes one.",
    )
    conditions: list[ConditionSettings] = Field(
        default_factory=lambda: [ConditionSettings(name="base")],
        min_length=1,
        description="What varies over all arms together.",
    )
    sweep: SweepSettings | None = Field(None, description="What varies within some arms.")
    axis: str = Field("", description="Label of the conditions' axis.")
    comparisons: dict[str, dict[str, Outcome]] = Field(
        default_factory=dict,
        description="Name -> role -> outcome: `arm`, `arm:80` (after 80 steps), `arm:best` (at its best probe), or one "
        "of them in another condition, `condition/arm`. The first role is compared with each other one, paired by "
        "seed. Empty: the subject with every other.",
    )
    analyses: list[Analysis] = Field(
        default_factory=list,
        description="Further questions, each with a table of its own: `selection_quality`, `gradient_noise`, "
        "`time_to_quality`, `tuning`, `drift`.",
    )
    reference: str | None = Field(
        None,
        description="The arm whose best probe accuracy `time_to_quality` is about, and whose policy `gradient_noise` "
        "is measured at, beside the untuned one. Only these two need it.",
    )
    subject: str | None = Field(None, description="The arm that is compared with every other; none is the recipe's.")

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        names = [condition.name for condition in self.conditions]
        if len(set(names)) < len(names):
            raise ValueError(f"conditions have the names {names}; give each its own")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}; the same seed twice is not another sample")
        short = [name for name, roles in self.comparisons.items() if len(roles) < 2]
        if short:
            raise ValueError(f"comparisons {short} have fewer than two roles; name at least two outcomes to compare")
        return self


def load_study(path: str | Path) -> StudyConfig:
    """Read a study file, by its path or by the name of one that comes with the package.

    Raises:
        ConfigError: missing file, invalid YAML, unknown key or invalid value.
    """
    path = find_study(path)
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, expected a mapping of sections")
    try:
        return validate(StudyConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
