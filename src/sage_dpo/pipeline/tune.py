"""Learning rates chosen on the probe problems, with the same grid for every arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_dpo.config import ArmSettings, RunConfig, validate
from sage_dpo.errors import ConfigError
from sage_dpo.pipeline.run import run
from sage_dpo.run_folder import RunFolder
from sage_dpo.storage import read_jsonl


def tune(
    config: RunConfig, learning_rates: Sequence[float], *, output: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Train every arm at every learning rate and compare greedy accuracy on the probe problems after the last step.

    The evaluation suites are not touched. All runs start from one first pool; an interrupted tuning continues.

    Returns:
        `{"grid", "metric", "steps", "arms": {arm: {"probe_accuracy": {rate: accuracy}, "best": rate}}}`

    Raises:
        ConfigError: the recipe has no probe problems or no trained arm.
    """
    if config.probe is None:
        raise ConfigError(
            "tuning needs a `probe` section in the recipe: problems that are neither trained nor tested on"
        )
    trained = config.trained_arms
    if not trained or not learning_rates:
        raise ConfigError("tuning needs at least one trained arm and one learning rate")
    names = {(arm, rate): f"{arm}@{rate:g}" for arm in trained for rate in learning_rates}
    arms = {
        name: ArmSettings(
            **{
                **config.arms[arm].model_dump(),
                "training": {**config.arms[arm].training, "learning_rate": rate, "probe_steps": config.training.steps},
            }
        )
        for (arm, rate), name in names.items()
    }
    grid = config.model_copy(
        update={"name": f"{config.name}-tuning", "arms": arms, "subject": None, "evaluation": None}
    )
    folder = RunFolder(run(validate(RunConfig, grid.model_dump()), output=output, progress=progress))
    scores = {key: _final_probe(folder.arm(name).metrics) for key, name in names.items()}
    return {
        "grid": list(learning_rates),
        "metric": "greedy accuracy on the probe problems after the last step",
        "steps": config.training.steps,
        "arms": {
            arm: {
                "probe_accuracy": {f"{rate:g}": scores[arm, rate] for rate in learning_rates},
                "best": max(learning_rates, key=lambda rate: scores[arm, rate]),
            }
            for arm in trained
        },
    }


def _final_probe(path: Path) -> float:
    return float([row["probe/accuracy"] for row in read_jsonl(path) if "probe/accuracy" in row][-1])
