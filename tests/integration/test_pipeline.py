"""The whole loop on the bundled gym policy, small: run, rerun, interrupt, resume, report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sage_dpo.config import RunConfig, load_config, validate
from sage_dpo.errors import ConfigError, EmptyPoolError, RunFolderError
from sage_dpo.pipeline.run import run
from sage_dpo.pipeline.tune import tune
from sage_dpo.records import PairScore
from sage_dpo.storage import read_json, read_jsonl, read_records, write_json

ROOT = Path(__file__).parents[2]
RECIPE = {
    "name": "small",
    "seed": 1,
    "policy": {"path": "gym:S"},
    "problems": {"kind": "gym", "split": "train", "count": 24},
    "probe": {"kind": "gym", "split": "probe", "count": 8},
    "rollouts": {"samples": 4, "max_new_tokens": 96, "engine": {"kind": "transformers", "batch_size": 128}},
    "verification": {"workers": 1},
    "pool": {"refresh_steps": 2},
    "training": {
        "steps": 4,
        "pairs_per_step": 4,
        "microbatch_size": 4,
        "learning_rate": 1e-4,
        "probe_steps": 2,
        "save_steps": 1,
        "max_length": 256,
        "trainer": {"gradient_checkpointing": False},
    },
    "evaluation": {"suites": {"kind": "gym", "names": ["short"]}, "max_new_tokens": 64, "at_best": True},
    "arms": {"vanilla": {"train": False}, "sage": {}},
}


def make_config(**changes) -> RunConfig:
    return validate(RunConfig, {**RECIPE, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return run(make_config(), output=tmp_path_factory.mktemp("runs") / "small", progress=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "arms" / "sage" / "policy" / "model.safetensors")


def selections(folder: Path) -> list[PairScore]:
    paths = sorted((folder / "arms" / "sage").glob("refresh-*/scores.parquet"))
    return [row for path in paths for row in read_records(path, PairScore)]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / "arms" / "sage" / "metrics.jsonl") if "loss" in row]


def at_best(folder: Path) -> dict[str, object]:
    best = read_json(folder / "summary.json")["arms"]["sage"]["best"]
    return {name: value for name, value in best.items() if not name.startswith("wall")}


def assert_same_run(first: Path, second: Path) -> None:
    assert losses(first) == losses(second)
    assert at_best(first) == at_best(second)
    assert selections(first) == selections(second)
    for (name, mine), other in zip(weights(first).items(), weights(second).values(), strict=True):
        assert torch.equal(mine, other), name


def test_a_run_leaves_everything_a_reader_needs(finished):
    summary = read_json(finished / "summary.json")
    assert set(summary["arms"]) == {"vanilla", "sage"}
    for arm in summary["arms"].values():
        assert {"average", "suites", "train_tokens", "scored_tokens", "wall_s"} <= set(arm)
        assert arm["average"] == arm["suites"]["short"]
    assert summary["arms"]["vanilla"]["train_tokens"] == 0
    sage = summary["arms"]["sage"]
    assert 0 < sage["train_tokens"] < sage["scored_tokens"]
    assert sage["kept_pairs"] * 2 == sage["candidate_pairs"] == 32
    assert set(summary["comparisons"]) == {"sage_minus_vanilla"}
    page = (finished / "report" / "index.html").read_text()
    assert f"{100 * sage['average']:.1f}" in page
    assert (finished / "report" / "table.md").is_file()
    assert read_json(finished / "manifest.json")["versions"]["trl"]
    assert [
        row["probe/accuracy"] for row in read_jsonl(finished / "arms/sage/metrics.jsonl") if "probe/accuracy" in row
    ]


def test_every_candidate_is_in_the_scores_of_its_refresh(finished):
    rows = selections(finished)
    assert len(rows) == 32
    assert {row.pool_version for row in rows if row.step < 2} == {0}
    assert {row.pool_version for row in rows if row.step >= 2} == {1}


def test_the_same_seed_gives_the_same_run(finished, tmp_path):
    again = run(make_config(), output=tmp_path / "again", progress=False)
    assert_same_run(finished, again)


def test_a_finished_run_is_not_done_again(finished):
    before = (finished / "manifest.json").stat().st_mtime_ns, weights(finished)["model.norm.weight"]
    run(make_config(), output=finished, progress=False)
    assert before[0] == (finished / "manifest.json").stat().st_mtime_ns


def test_another_recipe_does_not_go_into_the_same_folder(finished):
    with pytest.raises(RunFolderError, match=r"seed: 2.*--fresh"):
        run(make_config(seed=2), output=finished, progress=False)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_and_started_again_equals_uninterrupted(how, finished, tmp_path):
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(RECIPE))
    command = [sys.executable, "-m", "sage_dpo.cli", "run", str(recipe), "--output", str(folder), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240
    # after the refresh, in the middle of the second half
    while not (folder / "arms/sage/checkpoints/checkpoint-3").exists():
        assert process.poll() is None, process.stderr.read()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if how is signal.SIGINT:
        assert "run the same command again to continue" in errors
        assert "Traceback" not in errors
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_run(finished, folder)


def test_unknown_trainer_keys_are_refused_before_any_work(tmp_path):
    training = {**RECIPE["training"], "trainer": {"warmup_stesp": 3}}
    with pytest.raises(ConfigError, match=r"unknown keys \['warmup_stesp'\]"):
        run(make_config(training=training), output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_the_recipes_own_keys_cannot_be_set_a_second_time(tmp_path):
    training = {**RECIPE["training"], "trainer": {"keep_ratio": 0.25}}
    with pytest.raises(ConfigError, match=r"sets \['keep_ratio'\], which have a place of their own"):
        run(make_config(training=training), output=tmp_path / "run", progress=False)


def test_fresh_deletes_only_runs_and_only_when_all_is_in_order(tmp_path, finished):
    (tmp_path / "precious").mkdir()
    with pytest.raises(RunFolderError, match="not a run folder"):
        run(make_config(), output=tmp_path / "precious", fresh=True, progress=False)
    with pytest.raises(ConfigError):
        run(make_config(policy={"path": "/does/not/exist"}), output=finished, fresh=True, progress=False)
    assert (finished / "summary.json").is_file()


def test_no_correct_sample_at_all_says_so(tmp_path):
    problems = tmp_path / "problems.jsonl"
    rows = [{"id": str(i), "problem": f"How many ? {i}", "answer": "99999"} for i in range(4)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = make_config(problems={"kind": "file", "path": str(problems)})
    with pytest.raises(EmptyPoolError, match=r"no correct completion at all: 0 of 16"):
        run(config, output=tmp_path / "run", progress=False)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[RunConfig, Path]:
    """A fixed pool, LoRA, and a rate so low that no probe is better than the first: two are waited for."""
    pairs = ROOT / "examples" / "preferences.jsonl"
    config = make_config(
        policy={"path": "gym:S", "lora": {"r": 4, "alpha": 8}},
        problems=None,
        pairs={"kind": "fixed", "path": str(pairs), "limit": 40},
        training={**RECIPE["training"], "steps": 9, "probe_steps": 1, "patience": 2, "learning_rate": 1e-12},
    )
    return config, run(config, output=tmp_path_factory.mktemp("runs") / "stopped", progress=False)


def test_a_fixed_pool_with_lora(stopped):
    _, folder = stopped
    assert (folder / "arms/sage/policy/adapter_model.safetensors").is_file()
    assert read_json(folder / "summary.json")["arms"]["sage"]["kept_pairs"] == 12


def test_training_stops_where_no_probe_is_better_and_the_best_policy_is_evaluated(stopped):
    _, folder = stopped
    arm = read_json(folder / "summary.json")["arms"]["sage"]
    assert (arm["steps"], arm["best"]["step"]) == (3, 1)
    assert arm["stop_reason"] == "no better probe accuracy since step 1 (2 probes)"
    assert arm["best"]["suites"] == arm["suites"]
    assert arm["best"]["train_tokens"] < arm["train_tokens"]
    assert [path.name for path in (folder / "arms/sage/best").glob("policy-*")] == ["policy-000001"]
    assert (folder / "arms/sage/best/short.json").is_file()
    assert arm["stop_reason"] in (folder / "report" / "index.html").read_text()


def test_killed_after_it_had_stopped_training_takes_no_further_step(stopped, tmp_path):
    config, finished = stopped
    folder = shutil.copytree(finished, tmp_path / "run")
    manifest = read_json(folder / "manifest.json")
    del manifest["stages"]["arms/sage/train"]
    write_json(folder / "manifest.json", manifest)
    for path in ("summary.json", "arms/sage/best/short.json", "arms/sage/metrics.jsonl"):
        (folder / path).unlink()
    run(config, output=folder, progress=False)
    assert losses(folder) == losses(finished)
    assert at_best(folder) == at_best(finished)
    again, before = (read_json(path / "summary.json")["arms"]["sage"] for path in (folder, finished))
    for name in ("steps", "stop_reason", "suites", "train_tokens", "scored_tokens", "kept_pairs"):
        assert again[name] == before[name]


def test_learning_rates_are_tuned_on_the_probe_with_one_grid_for_all_arms(tmp_path):
    arms = {
        "dpo_full": {
            "selection": {"selector": "all", "keep_ratio": 1.0},
            "pool": {"stratified": False},
            "training": {"pairs_per_step": 8},
        },
        "sage": {},
    }
    config = make_config(arms=arms, training={**RECIPE["training"], "steps": 2, "save_steps": 0})
    result = tune(config, [1e-5, 1e-4], output=tmp_path / "tuning", progress=False)
    assert set(result["arms"]) == {"dpo_full", "sage"}
    for row in result["arms"].values():
        assert set(row["probe_accuracy"]) == {"1e-05", "0.0001"}
        assert row["best"] in (1e-5, 1e-4)


def test_the_quickstart_recipe_compares_the_four_arms():
    config = load_config(ROOT / "recipes" / "quickstart.yaml")
    assert list(config.arms) == ["vanilla", "dpo_full", "dpo_random", "sage"]
    assert {config.for_arm(arm).training.steps for arm in config.arms} == {config.training.steps}
    assert {arm: config.for_arm(arm).training.pairs_per_step for arm in list(config.arms)[1:]} == {
        "dpo_full": 64, "dpo_random": 32, "sage": 32,
    }  # fmt: skip
