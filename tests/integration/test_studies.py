"""Suites on the way, and a study from file to page, on the bundled gym policy, small."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sage_dpo.cli import app
from sage_dpo.config import RunConfig, validate
from sage_dpo.core.flops import policy_flops
from sage_dpo.pipeline.on_policy import read_info
from sage_dpo.pipeline.run import run
from sage_dpo.records import PairScore
from sage_dpo.run_folder import PoolFolder
from sage_dpo.storage import read_json, read_jsonl, read_records

ROOT = Path(__file__).parents[2]
RECIPE: dict[str, Any] = {
    "name": "small",
    "seed": 1,
    "problems": {"kind": "gym", "split": "train", "count": 24},
    "probe": {"kind": "gym", "split": "probe", "count": 8},
    "rollouts": {"samples": 4, "max_new_tokens": 64, "engine": {"kind": "transformers", "batch_size": 128}},
    "verification": {"workers": 1},
    "pool": {"refresh_steps": 2},
    "training": {
        "steps": 4,
        "pairs_per_step": 4,
        "microbatch_size": 4,
        "learning_rate": 1e-4,
        "probe_steps": 2,
        "max_length": 256,
        "trainer": {"gradient_checkpointing": False, "lr_scheduler_type": "constant"},
    },
    "evaluation": {"suites": {"kind": "gym", "names": ["short"]}, "max_new_tokens": 64, "at_steps": [4, 1, 2]},
    "arms": {"vanilla": {"train": False}, "sage": {}},
}
COSTS = ("train_tokens", "scored_tokens", "reference_tokens", "generated_tokens", "flops", "wall_s", "kept_pairs")


def small(steps: int) -> RunConfig:
    return validate(RunConfig, {**RECIPE, "training": {**RECIPE["training"], "steps": steps}})


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    return run(small(4), output=tmp_path_factory.mktemp("runs") / "four", progress=False)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    return run(small(2), output=tmp_path_factory.mktemp("runs") / "two", progress=False)


def sage(folder: Path) -> dict[str, Any]:
    return read_json(folder / "summary.json")["arms"]["sage"]


def test_suites_are_run_after_each_step_asked_for_before_the_last(four):
    arm = sage(four)
    assert list(arm["at_steps"]) == ["1", "2"]
    for row in arm["at_steps"].values():
        assert row["average"] == row["suites"]["short"]
    assert read_json(four / "summary.json")["arms"]["vanilla"]["at_steps"] == {}


def test_a_step_on_the_way_is_the_end_of_a_run_that_stops_there(four, two):
    on_the_way, end = sage(four)["at_steps"]["2"], sage(two)
    assert on_the_way["suites"] == end["suites"]
    counts = [cost for cost in COSTS if cost != "wall_s"]
    assert {cost: on_the_way[cost] for cost in counts} == {cost: end[cost] for cost in counts}


def test_costs_grow_with_the_step(four):
    arm = sage(four)
    rows = [*arm["at_steps"].values(), arm]
    for cost in COSTS:
        values = [row[cost] for row in rows]
        if cost in ("generated_tokens", "reference_tokens"):
            assert sorted(values) == values
            assert values[-1] > values[0]
        else:
            assert values[0] < values[1] < values[2], cost


def test_flops_are_those_of_the_tokens(four):
    arm = sage(four)
    parameters = read_json(four / "manifest.json")["stages"]["arms/sage/train"]["info"]["parameters"]
    refreshes = [read_info(PoolFolder(path.parent)) for path in sorted(four.rglob("info.json"))]
    assert len(refreshes) == 2
    sampled = sum(info.generated_tokens + info.prompt_tokens for info in refreshes)
    assert arm["flops"] == policy_flops(
        sampled=sampled,
        scored=arm["scored_tokens"],
        reference=arm["reference_tokens"],
        trained=arm["train_tokens"],
        parameters=parameters,
    )


def test_probes_are_logged_with_what_the_policy_had_cost(four):
    rows = read_jsonl(four / "arms" / "sage" / "metrics.jsonl")
    probes = [row for row in rows if row["step"] and "probe/accuracy" in row]
    assert [row["step"] for row in probes] == [2, 4]
    assert 0 < probes[0]["cost/seconds"] < probes[1]["cost/seconds"]
    assert 0 < probes[0]["cost/flops"] < probes[1]["cost/flops"]
    first_pool = read_json(four / "manifest.json")["stages"]["first-pool"]["info"]["costs"]
    assert probes[1]["cost/flops"] + first_pool["flops"] == pytest.approx(sage(four)["flops"])
    assert all("cost/flops" not in row for row in rows if "probe/accuracy" not in row)


STUDY = {
    "name": "tiny",
    "title": "A tiny study",
    "recipe": "recipe.yaml",
    "seeds": [1, 2],
    "set": {
        "training.steps": 2,
        "training.probe_steps": 1,
        "pool.refresh_steps": 0,
        "evaluation.at_steps": [1],
        "evaluation.at_best": True,
    },
    "arms": {
        "dpo_full": {
            "selection": {"selector": "all", "keep_ratio": 1.0},
            "pool": {"stratified": False},
            "training": {"pairs_per_step": 8},
        }
    },
    "sweep": {
        "key": "selection.keep_ratio",
        "values": [0.25, 0.5],
        "arms": ["sage"],
        "label": "gamma",
        "linked": {"training.pairs_per_step": [2, 4]},
    },
    "comparisons": {
        "half": {"sage": "sage@0.5", "dpo_full": "dpo_full", "early": "sage@0.5:1", "best": "sage@0.5:best"}
    },
    "analyses": ["selection_quality", "time_to_quality", "tuning"],
    "reference": "dpo_full",
}


def study(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["study", *map(str, arguments), "--quiet"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def study_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
    (folder / "study-tiny.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
    return folder / "study-tiny.yaml"


@pytest.fixture(scope="module")
def done(study_file) -> tuple[Path, str]:
    """The study's folder and what was printed."""
    root = study_file.parent / "out"
    return root, study(study_file, "--output", root, "--workers", 2, "--json", study_file.parent / "copy.json")


def test_a_study_leaves_its_runs_and_its_results(done, study_file):
    root, printed = done
    assert {path.parent.name for path in root.glob("base/*/summary.json")} == {"seed-1", "seed-2"}
    results = read_json(root / "results.json")
    assert read_json(study_file.parent / "copy.json") == results
    assert (results["study"], results["title"], results["axis"]) == ("tiny", "A tiny study", "gamma")
    assert (results["condition"], results["conditions"], results["policy"]) == ("base", [], "gym:S")
    assert results["seeds"] == [1, 2]
    assert list(results["arms"]) == ["vanilla", "sage@0.25", "sage@0.5", "dpo_full"]
    assert "A tiny study" in printed


def test_results_are_those_of_the_runs(done):
    root, _ = done
    arms = read_json(root / "results.json")["arms"]
    summaries = [read_json(root / "base" / f"seed-{seed}" / "summary.json")["arms"] for seed in (1, 2)]
    for name, arm in arms.items():
        runs = [summary[name] for summary in summaries]
        assert arm["average"] == [row["average"] for row in runs]
        assert arm["suites"] == {"short": [row["suites"]["short"] for row in runs]}
        for cost in (cost for cost in COSTS if cost != "kept_pairs"):
            assert arm[cost] == [row[cost] for row in runs]
            if name != "vanilla":
                assert arm["at_steps"]["1"][cost] == [row["at_steps"]["1"][cost] for row in runs]
                assert arm["at_steps"]["2"][cost] == arm[cost]
    swept = arms["sage@0.25"]
    assert (swept["origin"], swept["value"], swept["learning_rate"], swept["steps"]) == ("sage", 0.25, 1e-4, 2)
    assert list(swept["at_steps"]) == ["1", "2"]
    assert [point["step"] for point in swept["probe"]] == [0, 1, 2]
    assert (arms["vanilla"]["steps"], arms["vanilla"]["learning_rate"], arms["vanilla"]["probe"]) == (0, None, [])


def test_comparisons_are_paired_by_seed(done):
    results = read_json(done[0] / "results.json")
    arms, entries = results["arms"], results["comparisons"]["half"]
    assert list(entries) == ["sage_minus_dpo_full", "sage_minus_early", "sage_minus_best"]
    pairs = zip(arms["sage@0.5"]["average"], arms["dpo_full"]["average"], strict=True)
    assert entries["sage_minus_dpo_full"]["values"] == pytest.approx([a - b for a, b in pairs])


def test_the_best_probe_of_each_seed_is_the_arm_after_its_steps(done):
    root, printed = done
    arms = read_json(root / "results.json")["arms"]
    assert "best" not in arms["vanilla"]
    for name in (name for name in arms if name != "vanilla"):
        best, at_steps = arms[name]["best"], arms[name]["at_steps"]
        for seed, step in enumerate(best["step"]):
            for key in ("average", "train_tokens", "scored_tokens", "flops"):
                assert best[key][seed] == at_steps[str(step)][key][seed]
        assert f"{name}:best" in printed


def test_analyses_are_answered(done):
    results = read_json(done[0] / "results.json")
    assert set(results["selection_quality"]) == {"dpo_full", "sage@0.25", "sage@0.5"}
    full = results["selection_quality"]["dpo_full"]["0"]
    assert full["precision"] == full["base_rate"]
    assert full["mislabelled_base"]["mean"] == 0
    assert set(results["time_to_quality"]["arms"]) == {"sage@0.25", "sage@0.5"}
    assert list(results["tuning"]["sage"]["probe_accuracy"]) == ["0.25", "0.5"]


def test_table_and_page_tell_the_numbers(done):
    root, printed = done
    mean = 50 * sum(read_json(root / "results.json")["arms"]["sage@0.5"]["average"])
    for text in (printed, *((root / name).read_text(encoding="utf-8") for name in ("table.md", "index.html"))):
        assert f"{mean:.1f} ±" in text
    assert list((root / "plots").glob("*.svg"))


def test_selectors_without_scores_record_what_they_kept(done):
    path = done[0] / "base" / "seed-1" / "arms" / "dpo_full" / "refresh-000" / "scores.parquet"
    rows = read_records(path, PairScore)
    assert len(rows) == 16
    assert all(row.is_kept for row in rows)


def test_a_study_that_is_done_trains_nothing_again(done, study_file):
    root, printed = done
    before = {path: path.stat().st_mtime_ns for path in root.glob("base/**/*")}
    assert study(study_file, "--output", root) == printed
    assert {path: path.stat().st_mtime_ns for path in root.glob("base/**/*")} == before


def test_report_only_tells_the_seed_that_is_complete_and_runs_nothing(done, study_file, tmp_path):
    root = tmp_path / "out"
    shutil.copytree(done[0], root)
    shutil.rmtree(root / "base" / "seed-1")
    study(study_file, "--output", root, "--report-only")
    results = read_json(root / "results.json")
    assert results["seeds"] == [2]
    assert all(len(arm["average"]) == 1 for arm in results["arms"].values())
    assert not (root / "base" / "seed-1").exists()


def test_a_missing_study_is_one_message_and_exit_code_two(tmp_path):
    command = [sys.executable, "-m", "sage_dpo.cli", "study", str(tmp_path / "none.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: study")
    assert result.stderr.strip().count("\n") == 0
