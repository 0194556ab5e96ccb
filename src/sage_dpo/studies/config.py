"""What a study file may say. A study is a recipe, what varies over it, and what is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sage_dpo.config import ArmSettings, Section, parse_yaml, validate
from sage_dpo.errors import ConfigError

Outcome = str
"""`arm`, or `arm:step` for what it could do after `step` optimizer steps; `condition/arm` reaches into a condition."""


class Condition(Section):
    """One value of what varies over all arms together: policy, amount of data, noise.

    Attributes:
        name: of the folder and of the table's row.
        x: place on the plot's axis; `None` if the conditions have no order.
        set: overrides of the recipe, dotted keys as in `sage-dpo run --set`.
        arms: the arms that take part; `None` is all of them.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    x: float | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    arms: list[str] | None = None


ArmKey = Annotated[str, Field(pattern=r"^(selection|pool|training)\.\w+$")]
"""A setting that an arm can have for itself, as `training.learning_rate`."""


class Sweep(Section):
    """One key of some arms, over several values: arm `sage` becomes `sage@0.25`, `sage@0.5`, ...

    Attributes:
        key: dotted, in an arm's section: `training.learning_rate`, `selection.keep_ratio`, `pool.refresh_steps`.
        values: numbers.
        arms: which arms are swept; the others stay as they are.
        label: the axis of the plot.
        linked: further keys that go along, each with one value for each of `values`.
    """

    key: ArmKey
    values: Annotated[list[float], Field(min_length=1)]
    arms: Annotated[list[str], Field(min_length=1)]
    label: str = ""
    linked: dict[ArmKey, list[float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Sweep:
        uneven = {key: len(values) for key, values in self.linked.items() if len(values) != len(self.values)}
        if uneven:
            raise ValueError(f"linked gives {uneven} values for {len(self.values)} of {self.key}; give as many")
        return self


Analysis = Literal["selection_quality", "gradient_noise", "time_to_quality", "tuning"]


class StudyConfig(Section):
    """A study, validated.

    Attributes:
        name: of its folder and files.
        title: heading of its table.
        recipe: path of the recipe, relative to the study file.
        seeds: each gives every arm its own problems, rollouts and order of pairs; the policy and suites are the same.
        set: overrides of the recipe for all runs.
        arms: added to the recipe's arms, or changing those of the same name key by key; `null` removes one.
        conditions: what varies over all arms together.
        sweep: what varies within some arms.
        axis: label of the conditions' axis.
        comparisons: name -> role -> outcome; the first role is compared with each other one, paired by seed.
            Empty: the subject with every other.
        analyses: further questions, each with a table of its own.
        reference: the arm whose best probe accuracy `time_to_quality` is about.
        subject: the arm that is compared with every other; `None` is the recipe's.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    title: str
    recipe: str
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    set: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, ArmSettings | None] = Field(default_factory=dict)
    conditions: Annotated[list[Condition], Field(min_length=1)] = Field(
        default_factory=lambda: [Condition(name="base")]
    )
    sweep: Sweep | None = None
    axis: str = ""
    comparisons: dict[str, dict[str, Outcome]] = Field(default_factory=dict)
    analyses: list[Analysis] = Field(default_factory=list)
    reference: str = "dpo_full"
    subject: str | None = None

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
    """Read a study file.

    Raises:
        ConfigError: missing file, invalid YAML, unknown key or invalid value.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"study {str(path)!r} does not exist; give the path of a YAML file, see recipes/studies/")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ConfigError(f"a {type(values).__name__}, expected a mapping")
        return validate(StudyConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
