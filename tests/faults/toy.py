"""A recipe of seconds that passes through every stage: two arms, refresh, probes, rotation, suites, best policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from sage_dpo.gym.world import generate_problems


def write_recipe(folder: Path, **training: Any) -> Path:
    """Write the recipe and the files it reads; return its path."""
    for name, split, count in (("train", "train", 8), ("probe", "probe", 2), ("suite", "probe", 4)):
        rows = [{"id": p.id, "problem": p.problem, "answer": p.answer} for p in generate_problems(split, count, seed=5)]  # type: ignore[arg-type]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[-count:]))
    recipe = {
        "name": "toy",
        "seed": 1,
        "policy": {"path": "gym:S"},
        "problems": {"kind": "file", "path": str(folder / "train.jsonl")},
        "probe": {"kind": "file", "path": str(folder / "probe.jsonl")},
        "rollouts": {"samples": 4, "max_new_tokens": 48, "engine": {"kind": "transformers", "batch_size": 16}},
        "verification": {"workers": 1},
        "pool": {"refresh_steps": 2},
        "training": {
            "steps": 4,
            "pairs_per_step": 2,
            "microbatch_size": 2,
            "learning_rate": 1e-4,
            "probe_steps": 2,
            "save_steps": 1,
            "max_length": 256,
            "trainer": {"gradient_checkpointing": False},
            **training,
        },
        "evaluation": {
            "suites": {"kind": "files", "files": {"mine": {"path": str(folder / "suite.jsonl")}}},
            "max_new_tokens": 12,
            "at_best": True,
            "bootstrap_resamples": 100,
        },
        "arms": {
            "vanilla": {"train": False},
            "random": {
                "selection": {"selector": "random"},
                "pool": {"refresh_steps": 0},
                "training": {
                    "steps": 2,
                    "trainer": {"gradient_checkpointing": False, "save_total_limit": 1},
                },
            },
            "sage": {},
        },
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
