"""A study -> its runs: one recipe for each (condition, seed), with all arms that are compared in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage_dpo.config import (
    ArmSettings,
    FixedPairSettings,
    GymProblemSettings,
    RunConfig,
    dump_config,
    load_config,
    recorded_values,
    validate,
)
from sage_dpo.errors import ConfigError, RunFolderError
from sage_dpo.run_folder import RunFolder, StudyFolder
from sage_dpo.studies.config import BEST, ConditionSettings, StudyConfig, SweepSettings


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        condition, seed: which one.
        config: its recipe, complete.
        arms: for every arm of the recipe, the arm it stems from and the value swept, or `None`.
    """

    condition: ConditionSettings
    seed: int
    config: RunConfig
    arms: dict[str, tuple[str, float | None]]

    @property
    def id(self) -> str:
        """Folder of the run within the study's."""
        return f"{self.condition.name}/seed-{self.seed}"

    def evaluated_steps(self, arm: str) -> list[int]:
        """Return the optimizer steps after which an arm's policy is told of; none of the untuned policy."""
        if not self.config.arms[arm].train:
            return []
        last = self.config.for_arm(arm).training.steps
        on_the_way = self.config.evaluation.at_steps if self.config.evaluation else []
        return sorted({last, *(step for step in on_the_way if step < last)})

    def has_best(self, arm: str) -> bool:
        """Return whether an arm's policy is told of at its best probe."""
        evaluation = self.config.evaluation
        return self.config.arms[arm].train and evaluation is not None and evaluation.at_best

    @property
    def recipe(self) -> str:
        """The recipe as YAML; `sage-dpo run` of it is the run.

        Raises:
            ConfigError: it holds a secret, which would be written to a file.
        """
        if recorded_values(self.config) != self.config.model_dump(mode="json"):
            raise ConfigError(
                "the recipe holds a token or a password, and a study writes its recipes to files; give it in the "
                "environment (HF_TOKEN, or the variable that rollouts.engine.api_key_env names)"
            )
        return dump_config(self.config)

    def folder(self, root: Path) -> RunFolder:
        """Return the run's folder in that of the study."""
        return StudyFolder(root).run(self.id)

    def is_complete(self, root: Path) -> bool:
        """Return whether the run has its summary; an unfinished run of the same recipe can be continued.

        Raises:
            RunFolderError: the folder holds a run of another recipe, so the study has changed since.
        """
        folder = self.folder(root)
        if folder.config.is_file() and load_config(folder.config).model_dump() != self.config.model_dump():
            changes = folder.changes(self.recipe)
            raise RunFolderError(
                f"{folder.root} holds a run of another recipe than the study now has (changed: "
                f"{'; '.join(changes[:5])}); give another `--output`, or move that folder away to run it again"
            )
        return folder.config.is_file() and folder.summary.is_file()


def expand(study: StudyConfig, recipe: Path) -> list[StudyRun]:
    """Return the runs, seed by seed, so that an interrupted study has whole seeds.

    Args:
        study: validated.
        recipe: the file `study.recipe` names.

    Raises:
        ConfigError: an override or an arm is not valid in the recipe, or an arm to compare is in no run.
    """
    runs = [_run(study, recipe, condition, seed) for seed in study.seeds for condition in study.conditions]
    known = sorted({arm for run in runs for arm in run.arms})
    if study.subject is not None and study.subject not in known:
        raise ConfigError(
            f"study {study.name!r}: the subject {study.subject!r} is in no run; known arms: {', '.join(known)}"
        )
    _check_comparisons(study, runs)
    _check_analyses(study, runs)
    return runs


def _check_comparisons(study: StudyConfig, runs: list[StudyRun]) -> None:
    """Raise on an outcome that no run will have, before any runs."""
    steps: dict[str, set[int]] = {}
    without_best: set[str] = set()
    for run in runs:
        for arm in run.arms:
            evaluated = set(run.evaluated_steps(arm))
            for label in (arm, f"{run.condition.name}/{arm}"):
                steps[label] = steps.get(label, evaluated) & evaluated  # `arm` means it in every condition that has it
                without_best |= set() if run.has_best(arm) else {label}
    for name, roles in study.comparisons.items():
        for label in roles.values():
            arm, _, step = label.partition(":")
            if arm not in steps:
                known = ", ".join(sorted(label for label in steps if "/" not in label))
                raise ConfigError(f"comparison {name!r}: arm {arm!r} is in no run; known arms: {known}")
            if step == BEST and arm in without_best:
                raise ConfigError(
                    f"comparison {name!r}: {label!r} will not be evaluated; switch on evaluation.at_best, and name an "
                    "arm that is trained"
                )
            if step and step != BEST and (not step.isdigit() or int(step) not in steps[arm]):
                raise ConfigError(
                    f"comparison {name!r}: {label!r} will not be evaluated, {arm!r} is at steps {sorted(steps[arm])}; "
                    f"add the step to evaluation.at_steps"
                )
        if any(run.config.evaluation is None for run in runs):
            raise ConfigError(f"comparison {name!r} needs the suites, but the recipe's evaluation is switched off")


def _check_analyses(study: StudyConfig, runs: list[StudyRun]) -> None:
    """Raise on an analysis whose measurements no run will take."""
    for run in runs:
        trained = [arm for arm in run.arms if run.config.arms[arm].train]
        if {"time_to_quality", "gradient_noise"} & set(study.analyses) and study.reference not in trained:
            raise ConfigError(
                f"study {study.name!r}: reference is {study.reference!r}, expected a trained arm of condition "
                f"{run.condition.name!r}: {', '.join(trained)}"
            )
        is_probed = all(run.config.for_arm(arm).training.probe_steps for arm in trained)
        if {"time_to_quality", "tuning"} & set(study.analyses) and not is_probed:
            raise ConfigError(f"study {study.name!r}: time_to_quality and tuning need training.probe_steps > 0")
        is_gym = isinstance(run.config.problems, GymProblemSettings)
        is_fixed = isinstance(run.config.pairs, FixedPairSettings)
        if "selection_quality" in study.analyses and (is_fixed or not is_gym):
            raise ConfigError(f"study {study.name!r}: selection_quality needs gym problems and on-policy pairs")
        if "drift" in study.analyses and is_fixed:
            raise ConfigError(f"study {study.name!r}: drift needs on-policy pairs, whose samples it scores again")
    if "tuning" in study.analyses and study.sweep is None:
        raise ConfigError(f"study {study.name!r}: tuning needs a sweep")


def _run(study: StudyConfig, recipe: Path, condition: ConditionSettings, seed: int) -> StudyRun:
    overrides = {**study.set, **condition.set, "name": f"{study.name}-{condition.name}-{seed}", "seed": seed}
    base = load_config(recipe, overrides)
    arms = {**base.arms, **{name: _merged(base.arms.get(name), arm) for name, arm in study.arms.items()}}
    present = {name: arm for name, arm in arms.items() if arm is not None}
    wanted = list(present) if condition.arms is None else condition.arms
    unknown = sorted({*wanted, *(study.sweep.arms if study.sweep else ())} - set(present))
    if unknown:
        raise ConfigError(f"study {study.name!r} names the arms {unknown}; known arms: {', '.join(present)}")
    final: dict[str, ArmSettings] = {}
    origin: dict[str, tuple[str, float | None]] = {}
    for name in wanted:
        values: list[float] | list[None] = study.sweep.values if study.sweep and name in study.sweep.arms else [None]
        for value in values:
            full = name if value is None else f"{name}@{value:g}"
            final[full] = present[name] if value is None else _swept(present[name], study.sweep, value)
            origin[full] = (name, value)
    wanted_subject = study.subject or base.subject
    document = {
        **base.model_dump(mode="json"),
        "subject": wanted_subject if wanted_subject in final else None,  # a condition may do without it
        "arms": {name: arm.model_dump() for name, arm in final.items()},
    }
    return StudyRun(condition, seed, validate(RunConfig, document, where=f"study {study.name}"), origin)


def _merged(arm: ArmSettings | None, changes: ArmSettings | None) -> ArmSettings | None:
    """Change an arm of the recipe key by key: what the study leaves out stays, the selector for one."""
    if arm is None or changes is None:
        return changes
    updates = changes.model_dump(exclude_unset=True)
    merged = {
        key: {**getattr(arm, key), **value} if isinstance(value, dict) else value for key, value in updates.items()
    }
    return arm.model_copy(update=merged)


def _swept(arm: ArmSettings, sweep: SweepSettings | None, value: float) -> ArmSettings:
    assert sweep is not None
    row = sweep.values.index(value)
    for dotted, number in {sweep.key: value, **{key: values[row] for key, values in sweep.linked.items()}}.items():
        section, key = dotted.split(".")
        whole = int(number) if number.is_integer() and "step" in key else number
        arm = arm.model_copy(update={section: {**getattr(arm, section), key: whole}})
    return arm
