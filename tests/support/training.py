"""Preference data, arguments and losses of a short training run."""

from __future__ import annotations

import random
from pathlib import Path

from datasets import Dataset

from sage_dpo import SAGEConfig


def words(rng: random.Random, low: int = 3, high: int = 15) -> str:
    return " ".join(str(rng.randrange(30)) for _ in range(rng.randint(low, high)))


def make_preferences(count: int = 40, seed: int = 0, **extra) -> Dataset:
    rng = random.Random(seed)
    message = lambda role: [{"role": role, "content": words(rng)}]  # noqa: E731
    rows = [
        {"prompt": message("user"), "chosen": message("assistant"), "rejected": message("assistant")} | extra
        for _ in range(count)
    ]
    return Dataset.from_list(rows)


def make_arguments(folder: Path, **changes) -> SAGEConfig:
    values = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": [],
        "logging_steps": 1,
        "save_steps": 3,
        "disable_tqdm": True,
    }
    return SAGEConfig(**{**values, **changes})


def losses(trainer) -> list[tuple[float, float]]:
    return [(row["loss"], row["grad_norm"]) for row in trainer.state.log_history if "loss" in row]
