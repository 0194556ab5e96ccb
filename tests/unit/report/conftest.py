"""A synthetic run folder with the shape of a real one: five arms, three refreshes, confident errors that wane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sage_dpo.config import RunConfig, SelectorSettings, dump_config, validate
from sage_dpo.core.strata import STRATA, assign_strata
from sage_dpo.core.utility import curvature, gradient_signal, sage_utility
from sage_dpo.manifest import Manifest
from sage_dpo.records import (
    Completion,
    FinishReason,
    PairScore,
    PreferencePair,
    Problem,
    Verdict,
    VerdictKind,
)
from sage_dpo.run_folder import FIRST_POOL, ArmFolder, PoolFolder, RunFolder
from sage_dpo.storage import write_json, write_jsonl, write_records

SUITES = ("short", "medium", "long", "longer", "distractors", "products", "carries", "borrows")
SELECTORS = {"dpo_full": "all", "dpo_random": "random", "lowest_margin": "lowest_margin", "sage": "sage"}
AVERAGES = {"vanilla": 0.4712, "dpo_full": 0.5486, "dpo_random": 0.5391, "lowest_margin": 0.6027, "sage": 0.6134}
HOSTILE = "</pre><script>alert('owned')</script> <img src=x onerror=alert(1)>"
REFRESHES, STEPS, CANDIDATES, PROBLEMS, SAMPLES = 3, 8, 64, 80, 8

RunBuilder = Callable[..., Path]


@pytest.fixture(scope="session")
def build_run(tmp_path_factory: pytest.TempPathFactory) -> RunBuilder:
    """Return a function that writes a run folder; `arms` chooses which, `seed` the numbers."""

    def build(arms: Sequence[str] = tuple(AVERAGES), *, seed: int = 3, steps: int = STEPS) -> Path:
        root = tmp_path_factory.mktemp("runs") / "synthetic"
        write_run(root, arms, seed=seed, steps=steps)
        return root

    return build


def write_run(root: Path, arms: Sequence[str], *, seed: int, steps: int = STEPS) -> None:
    rng = np.random.default_rng(seed)
    folder = RunFolder(root)
    manifest = Manifest(folder, dump_config(_config(arms, steps)))
    manifest.values["versions"] = {"python": "3.11.0", "torch": "2.13.0"}
    problems = [
        Problem(f"p{i:03d}", f"Tom has {i} apples . He finds 7 more . How many ?", str(i + 7)) for i in range(PROBLEMS)
    ]
    manifest.stage("problems", lambda: {"problems": len(problems), "duplicates": 2})
    manifest.values["stages"]["problems"]["seconds"] = 1.25
    write_records(folder.problems("train"), problems, Problem)
    first_pool = _write_rollouts(folder.first_pool, 0, problems, rng)
    manifest.stage(FIRST_POOL, lambda: {"pairs": len(first_pool), "generated_tokens": 81_920})
    manifest.values["stages"][FIRST_POOL]["seconds"] = 44.0
    for arm in arms:
        if arm != "vanilla":
            _write_arm(folder.arm(arm), SELECTORS[arm], problems, first_pool, steps, rng)
            manifest.stage(folder.arm(arm).stage, lambda: {"keep_count": 32, "exclusions": {"over_long": 3}})
            manifest.values["stages"][folder.arm(arm).stage]["seconds"] = 431.0
    manifest.record_data("problems/train.parquet", "0" * 64)
    write_json(folder.summary, summary(arms, steps))


def _config(arms: Sequence[str], steps: int) -> RunConfig:
    return validate(
        RunConfig,
        {
            "name": "synthetic",
            "seed": 7,
            "problems": {"kind": "gym", "count": PROBLEMS},
            "pool": {"refresh_steps": steps},
            "training": {"steps": REFRESHES * steps, "pairs_per_step": CANDIDATES // 2, "learning_rate": 1e-4},
            "arms": {
                arm: {"train": False}
                if arm == "vanilla"
                else {"selection": {"selector": SELECTORS[arm], "keep_ratio": 1.0 if arm == "dpo_full" else 0.5}}
                for arm in arms
            },
        },
    )


def summary(arms: Sequence[str] = tuple(AVERAGES), steps: int = STEPS) -> dict[str, Any]:
    """A `summary.json` with known numbers: suites lie around the average, intervals are +-3 points."""
    offsets = np.linspace(0.2, -0.2, len(SUITES))
    suites = {arm: {s: AVERAGES[arm] + o for s, o in zip(SUITES, offsets, strict=True)} for arm in arms}
    results = {
        arm: {
            "average": AVERAGES[arm],
            "suites": suites[arm],
            "train_tokens": 0 if arm == "vanilla" else 1_234_567 if arm == "dpo_full" else 654_321,
            "scored_tokens": 1_111_111 if arm in ("sage", "lowest_margin") else 0,
            "generated_tokens": 345_678,
            "wall_s": 412.5 if arm == "sage" else 502.0,
            "wall_breakdown": {
                "refresh": 120.0,
                "training": 250.0,
                "probe": 21.0,
                FIRST_POOL: 44.0,
                "evaluation": 33.0,
            },
            "refreshes": 0 if arm == "vanilla" else REFRESHES - 1,
            "exclusions": {} if arm == "vanilla" else {"over_long": 3},
            "learning_rate": None if arm == "vanilla" else 1e-4,
            "steps": 0 if arm == "vanilla" else REFRESHES * steps,
            "kept_pairs": 768,
            "candidate_pairs": 1536,
        }
        for arm in arms
    }
    return {
        "name": "synthetic",
        "seed": 7,
        "arms": results,
        "comparisons": {
            "sage_minus_dpo_full": {"mean": 0.0648, "low": 0.0311, "high": 0.0989},
            "sage_minus_lowest_margin": {"mean": 0.0107, "low": -0.0142, "high": 0.0359},
            "dpo_random_minus_dpo_full": {"mean": -0.0295, "low": -0.0512, "high": -0.0074},
        },
        "intervals": {
            arm: {
                "average": [AVERAGES[arm] - 0.02, AVERAGES[arm] + 0.02],
                "suites": {suite: [value - 0.05, value + 0.05] for suite, value in suites[arm].items()},
            }
            for arm in arms
        },
    }


def _write_arm(
    arm: ArmFolder,
    selector: str,
    problems: list[Problem],
    first_pool: list[PreferencePair],
    steps: int,
    rng: np.random.Generator,
) -> None:
    metrics: list[dict[str, Any]] = [{"step": 0, "probe/accuracy": 0.47}]
    for version in range(REFRESHES):
        folder = arm.refresh(version)
        pairs = _write_rollouts(folder, version, problems, rng) if version else first_pool
        scores = [row for step in range(steps) for row in _score(pairs, version * steps + step, version, selector, rng)]
        if selector in ("lowest_margin", "sage"):
            write_records(folder.scores, scores, PairScore)
        metrics += [_metrics(scores, version * steps + step, selector, rng) for step in range(steps)]
    write_jsonl(arm.metrics, metrics)


def _write_rollouts(
    folder: PoolFolder, version: int, problems: list[Problem], rng: np.random.Generator
) -> list[PreferencePair]:
    completions, verdicts, pairs = [], [], []
    for problem in problems:
        skill = rng.beta(0.9 + 0.5 * version, 1.2)
        draws = rng.random(SAMPLES)
        kinds = [
            VerdictKind.CORRECT if d < skill else VerdictKind.WRONG if d < 0.97 else VerdictKind.UNPARSEABLE
            for d in draws
        ]
        for sample, kind in enumerate(kinds):
            text = f"{problem.answer} - 7 = {sample} . The answer is \\boxed{{ {sample} }}"
            reason = FinishReason.LENGTH if kind is VerdictKind.UNPARSEABLE else FinishReason.STOP
            completions.append(Completion(problem.id, sample, text, (1, 2), (3, 4, 5), reason, version))
            verdicts.append(Verdict(problem.id, sample, kind, str(sample)))
        right = [s for s, kind in enumerate(kinds) if kind is VerdictKind.CORRECT]
        wrong = [s for s, kind in enumerate(kinds) if kind is VerdictKind.WRONG]
        for chosen, rejected in zip(right, wrong, strict=False):
            pairs.append(
                PreferencePair(
                    id=f"{problem.id}-{chosen}-{rejected}-v{version}",
                    problem_id=problem.id,
                    prompt_ids=(1, 2),
                    chosen_ids=(3, 4),
                    rejected_ids=(5, 6),
                    prompt=problem.problem,
                    chosen=f"The answer is \\boxed{{ {problem.answer} }}",
                    rejected=f"{HOSTILE} sample {rejected}",
                    success_rate=len(right) / SAMPLES,
                    policy_version=version,
                )
            )
    write_records(folder.completions, completions, Completion)
    write_records(folder.verdicts, verdicts, Verdict)
    write_records(folder.pairs, pairs, PreferencePair)
    write_json(folder.info, {"version": version, "exclusions": {"no_correct_sample": 9 - version, "truncated": 4}})
    return pairs


def _score(
    pairs: list[PreferencePair], step: int, version: int, selector: str, rng: np.random.Generator
) -> list[PairScore]:
    drawn = [pairs[i] for i in rng.choice(len(pairs), CANDIDATES, replace=len(pairs) < CANDIDATES)]
    rates = np.array([pair.success_rate for pair in drawn], dtype=np.float64)
    margins = torch.from_numpy(rng.normal(1.6 * (rates - 0.45) + 0.2 * version, 0.7))
    spread = torch.from_numpy(rng.gamma(6.0, 0.05, CANDIDATES)) + 0.25 * torch.exp(-(margins**2))
    informativeness = spread if selector == "sage" else torch.ones_like(margins)
    damping = SelectorSettings().damping
    utility = sage_utility(margins, informativeness, damping=damping) if selector == "sage" else -margins
    kept = set(torch.argsort(utility, descending=True)[: CANDIDATES // 2].tolist())
    columns = (margins, gradient_signal(margins), curvature(margins), informativeness, utility)
    strata = [str(STRATA[code]) for code in assign_strata(rates)]
    return [
        PairScore(step, pair.id, pair.problem_id, strata[i], *(float(c[i]) for c in columns), i in kept, version)
        for i, pair in enumerate(drawn)
    ]


def _metrics(scores: list[PairScore], step: int, selector: str, rng: np.random.Generator) -> dict[str, Any]:
    rows = [score for score in scores if score.step == step]
    kept, dropped = [r for r in rows if r.is_kept], [r for r in rows if not r.is_kept]
    row: dict[str, Any] = {
        "step": step + 1,
        "loss": 0.69 - 0.01 * step + 0.02 * rng.random(),
        "rewards/margins": 0.02 * step + 0.05 * rng.random(),
        "rewards/accuracies": min(1.0, 0.5 + 0.02 * step),
        "sage/tokens_trained": (step + 1) * (30_000 if selector == "all" else 16_000),
        "sage/tokens_scored": 0,
    }
    if step % 4 == 3:
        gain = {"all": 0.09, "random": 0.08}.get(selector, 0.14)
        row["probe/accuracy"] = 0.47 + gain * (1 - np.exp(-step / 20)) + 0.005 * rng.random()
    if selector in ("lowest_margin", "sage"):
        row["sage/kept_fraction"] = 0.5
        row["sage/tokens_scored"] = (step + 1) * 30_500
        for name in ("margin", "utility", "gradient_signal", "curvature", "informativeness"):
            row[f"sage/{name}_kept"] = float(np.mean([getattr(r, name) for r in kept]))
            row[f"sage/{name}_dropped"] = float(np.mean([getattr(r, name) for r in dropped]))
    return row
