"""Commands of the gym: its policies and problems."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sage_dpo.cli.options import Quiet, Seed, read_settings, setting
from sage_dpo.config import GymProblemSettings, validate


def train(
    output: Annotated[Path, typer.Option(help="Folder for the policy.")],
    size: Annotated[str, typer.Option(help="S, M or L.")] = "S",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; default the size's own.")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """Train a gym policy from scratch on solutions with misconceptions."""
    chosen = read_settings({"seed": seed})
    from sage_dpo.gym.policy import train_policy

    print(json.dumps(train_policy(size, output, seed=chosen.seed, steps=steps, progress=not quiet), indent=2))


def problems(
    output: Annotated[Path, typer.Option(help="JSONL to write.")],
    split: Annotated[str, typer.Option(help="train, probe, or a suite's name.")] = "train",
    count: Annotated[int | None, setting(GymProblemSettings, "count")] = None,
    seed: Seed = None,
) -> None:
    """Write gym problems as JSONL, to look at or to use with the other commands."""
    chosen = read_settings({"seed": seed})
    given = {} if count is None else {"count": count}
    count = validate(GymProblemSettings, {"kind": "gym", **given}, where="problems").count
    from sage_dpo.gym.suites import SUITES, load_suite
    from sage_dpo.gym.world import generate_problems
    from sage_dpo.storage import write_jsonl

    rows = load_suite(split) if split in SUITES else generate_problems(split, count, seed=chosen.seed)
    write_jsonl(output, [asdict(row) for row in rows])
    print(f"{len(rows)} problems: {output}")
