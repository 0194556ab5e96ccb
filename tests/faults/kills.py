"""Kills at seeded places of a toy run: the same command again gives the undisturbed run's result, bit for bit."""

from __future__ import annotations

import ast
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.compare import differences
from tests.faults.injector import Fault, in_child, run_command
from tests.faults.toy import write_recipe

KINDS = ("SIGKILL", "SIGTERM", "SIGINT", "no_space", "file_size", "no_memory", "address_space")


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to: its recipe, its folder, how often it changed a file, and when it deleted."""

    recipe: Path
    folder: Path
    changes: int
    deletions: list[int]
    seconds: float


def undisturbed(root: Path) -> Undisturbed:
    root.mkdir(parents=True, exist_ok=True)
    recipe, folder, count = write_recipe(root), root / "whole", root / "count"
    outcome = in_child(lambda: run_command(_arguments(recipe, folder), folder, count=count), root / "log")
    assert outcome.code == 0, outcome.printed[-3000:]
    (changes,), deletions = ast.literal_eval(count.read_text())
    return Undisturbed(recipe, folder, changes, deletions, outcome.seconds)


def faults(count: int, whole: Undisturbed, seed: int) -> list[Fault]:
    """Return faults of all kinds in turn: at any change of a file, within deletions, and signals by the clock."""
    rng = random.Random(seed)
    chosen = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        place = number // len(KINDS) % 4
        if place == 3 and kind.startswith("SIG"):
            chosen.append(Fault(kind, after_s=whole.seconds * rng.random()))
        elif place == 1:
            chosen.append(Fault(kind, at=rng.choice(whole.deletions)))
        else:
            chosen.append(Fault(kind, at=rng.randrange(whole.changes)))
    return chosen


def check(fault: Fault, whole: Undisturbed, root: Path) -> dict[str, Any]:
    """Run into the fault, run again, compare.

    Returns:
        `{"ended": how the first attempt did, "differences": [...], "traceback": whether it showed one}`
    """
    folder, log = root / "run", root / "log"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    arguments = _arguments(whole.recipe, folder)
    first = in_child(lambda: run_command(arguments, folder, fault), log)
    again = in_child(lambda: run_command(arguments, folder), log)
    if again.code:
        return {"ended": first.code, "differences": [f"does not resume: {again.printed[-1500:]}"], "traceback": False}
    report = root / "differences"
    compared = in_child(lambda: report.write_text("\n".join(differences(whole.folder, folder))), log)
    assert compared.code == 0, compared.printed
    return {
        "ended": first.code,
        "differences": report.read_text().splitlines(),
        "traceback": "Traceback" in first.printed,
        "tail": first.printed[-1500:],
    }


def run(root: Path, *, count: int = 63, seed: int = 0, progress: bool = True) -> dict[str, Any]:
    """Return totals of `count` faults."""
    whole = undisturbed(root / "undisturbed")
    results, failures = Counter[str](), []
    for number, fault in enumerate(faults(count, whole, seed)):
        found = check(fault, whole, root / "fault")
        struck = found["ended"] != 0
        results[f"{fault.kind}: {'struck' if struck else 'ran through'}"] += 1
        results["same result"] += not found["differences"]
        results["tracebacks"] += found["traceback"]
        if found["traceback"] and progress:
            print(found["tail"], flush=True)
        if found["differences"]:
            failures.append({"fault": str(fault), **found})
        if progress:
            print(f"kills {number + 1}/{count}: {fault} -> {found['ended']} {found['differences'][:3]}"
                  f"{' TRACEBACK' if found['traceback'] else ''}", flush=True)  # fmt: skip
    return {
        "faults": count,
        "changes_of_files": whole.changes,
        "deletions": len(whole.deletions),
        **dict(sorted(results.items())),
        "failures": failures,
    }


def _arguments(recipe: Path, folder: Path) -> list[str]:
    return ["run", str(recipe), "--output", str(folder), "--quiet"]
