"""A whole run of a small policy in under a minute, and what is compared of two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from sage_dpo.config import RunConfig, validate
from sage_dpo.gym.world import generate_problems
from sage_dpo.pipeline.run import run
from sage_dpo.records import PairScore
from sage_dpo.storage import read_json, read_jsonl, read_records

RECIPE: dict[str, Any] = {
    "name": "small",
    "seed": 1,
    "policy": {"path": "gym:S"},
    "problems": {"kind": "gym", "split": "train", "count": 15},
    "probe": {"kind": "gym", "split": "probe", "count": 5},
    "rollouts": {"samples": 4, "max_new_tokens": 96},
    "verification": {"workers": 1},
    "pool": {"refresh_steps": 2},
    "training": {
        "steps": 3,
        "pairs_per_step": 4,
        "learning_rate": 1e-4,
        "probe_steps": 2,
        "save_steps": 1,
        "max_length": 256,
        "trainer": {"gradient_checkpointing": False},
    },
    "arms": {"vanilla": {"train": False}, "sage": {}},
}


def write_recipe(folder: Path, **changes: Any) -> Path:
    """Write the recipe with a short suite and keys of its sections replaced by `changes`; return its path."""
    rows = [{"id": p.id, "problem": p.problem, "answer": p.answer} for p in generate_problems("probe", 7, seed=9)]
    (folder / "suite.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suites = {"kind": "files", "files": {"few": {"path": str(folder / "suite.jsonl")}}}
    values = {**RECIPE, "evaluation": {"suites": suites, "max_new_tokens": 64, "at_best": True}}
    for section, keys in changes.items():
        values[section] = {**values[section], **keys}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def alone(recipe: Path, folder: Path, **arguments: Any) -> Path:
    """Run the recipe in this process."""
    config = validate(RunConfig, yaml.safe_load(recipe.read_text()))
    return run(config, output=folder, progress=False, **arguments)


def selections(folder: Path) -> list[tuple[int, str, bool]]:
    paths = sorted((folder / "arms" / "sage").glob("refresh-*/scores.parquet"))
    return [(row.step, row.pair_id, row.is_kept) for path in paths for row in read_records(path, PairScore)]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / "arms" / "sage" / "metrics.jsonl") if "loss" in row]


def counted(folder: Path) -> dict[str, object]:
    arm = read_json(folder / "summary.json")["arms"]["sage"]
    names = ("suites", "train_tokens", "scored_tokens", "reference_tokens", "generated_tokens", "kept_pairs")
    return {name: arm[name] for name in (*names, "refreshes")}
