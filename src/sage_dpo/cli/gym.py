"""Commands of the gym: its policies and problems."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sage_dpo.cli.options import Quiet, Seed, read_settings, setting
from sage_dpo.config import GymProblemSettings, validate

Track = Annotated[str | None, setting(GymProblemSettings, "track")]


def _track(track: str | None) -> dict[str, str]:
    return {} if track is None else {"track": track}


def train(
    output: Annotated[Path, typer.Option(help="Folder for the policy.")],
    size: Annotated[str, typer.Option(help="S, M or L.")] = "S",
    track: Track = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; default the size's own.")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """Train a gym policy from scratch on solutions with misconceptions."""
    chosen = read_settings({"seed": seed})
    from sage_dpo.gym.policy import train_policy

    world = validate(GymProblemSettings, {"kind": "gym", **_track(track)}, where="problems").track
    trained = train_policy(size, output, seed=chosen.seed, track=world, steps=steps, progress=not quiet)
    print(json.dumps(trained, indent=2))


def problems(
    output: Annotated[Path, typer.Option(help="JSONL to write.")],
    split: Annotated[str, typer.Option(help="train, probe, or a suite's name.")] = "train",
    track: Track = None,
    count: Annotated[int | None, setting(GymProblemSettings, "count")] = None,
    seed: Seed = None,
) -> None:
    """Write gym problems as JSONL, to look at or to use with the other commands."""
    chosen = read_settings({"seed": seed})
    given = {} if count is None else {"count": count}
    asked = validate(GymProblemSettings, {"kind": "gym", **given, **_track(track)}, where="problems")
    from sage_dpo.gym.suites import load_suite, suites_of
    from sage_dpo.gym.world import generate_problems
    from sage_dpo.storage import write_jsonl

    if split in suites_of(asked.track):
        rows = load_suite(split, asked.track)
    else:
        rows = generate_problems(split, asked.count, seed=chosen.seed, track=asked.track)
    write_jsonl(output, [asdict(row) for row in rows])
    print(f"{len(rows)} problems: {output}")
