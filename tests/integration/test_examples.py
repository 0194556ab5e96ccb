"""The examples run as a user would run them: as programs, offline, on the CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import datasets
import numpy as np
import pytest
import torch
from tests.support.qwen import save_tiny_qwen
from transformers import AutoModelForCausalLM, AutoTokenizer

from sage_dpo.gym.misconceptions import solve, solve_with_misconceptions
from sage_dpo.gym.world import generate_problems, story_of
from sage_dpo.selection.log import read_candidates
from sage_dpo.selectors import Candidates, CandidateScores, SelectorSettings, registry

ROOT = Path(__file__).parents[2]


def run_example(name: str, home: Path, *arguments: str) -> str:
    """Run an example and return what it printed; its caches go to `home`, and no hub is asked."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "src")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "HF_DATASETS_CACHE": str(home / "datasets")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped preference data, or as many gym pairs where an installed copy comes without it."""
    shipped = ROOT / "examples" / "preferences.jsonl"
    if shipped.is_file():
        return shipped
    rows = []
    for index, problem in enumerate(generate_problems("train", 200, seed=0)):
        story = story_of(problem)
        chosen, rejected = solve(story), solve_with_misconceptions(story, random.Random(index))
        if chosen != rejected:
            sides = {"prompt": ("user", problem.problem), "chosen": ("assistant", chosen)}
            sides["rejected"] = ("assistant", rejected)
            rows.append({name: [{"role": role, "content": text}] for name, (role, text) in sides.items()})
    path = tmp_path_factory.mktemp("data") / "preferences.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_two_changed_names_make_trl_dpo_choose_its_pairs(preferences: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(preferences), "--output", str(tmp_path / "run"), "--steps", "2"]
    output = run_example("dpo_to_sage.py", tmp_path, *arguments)
    assert "32 trained of 64 candidates" in output
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
    rows = read_candidates(tmp_path / "run" / "candidates")
    assert sum(row.is_kept for row in rows) == 32


def test_the_same_script_trains_adapters(
    preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, to save the imports."""
    arguments = ["--data", str(preferences), "--output", str(tmp_path / "run"), "--steps", "1", "--lora"]
    monkeypatch.setattr(sys, "argv", ["dpo_to_sage.py", *arguments])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    load_example("dpo_to_sage").main()
    monkeypatch.delitem(sys.modules, "dpo_to_sage")
    assert "16 trained of 32 candidates" in capsys.readouterr().out
    assert (tmp_path / "run" / "policy" / "adapter_model.safetensors").is_file()


def test_a_registered_selector_trains(preferences: Path, tmp_path: Path) -> None:
    output = run_example(
        "custom_selector.py", tmp_path, "--data", str(preferences), "--output", str(tmp_path / "run"), "--steps", "2"
    )
    assert "selector: trimmed_margin, skip 0.2" in output
    rows = read_candidates(tmp_path / "run" / "candidates")
    for step in (0, 1):
        for stratum in {row.stratum for row in rows}:
            group = [row for row in rows if row.step == step and row.stratum == stratum]
            ranked = sorted(group, key=lambda row: row.margin)
            skipped, kept = int(0.2 * len(group)), [row.is_kept for row in ranked]
            expected = [skipped <= place < skipped + sum(kept) for place in range(len(group))]
            assert kept == expected


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_trimmed_margin_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pairs of margins 0..9: the lowest two are skipped; they come back, least extreme first, when room is left."""
    monkeypatch.setattr(registry, "SELECTORS", dict(registry.SELECTORS))
    load_example("custom_selector")
    monkeypatch.delitem(sys.modules, "custom_selector")
    margins = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7], dtype=np.float64)
    scores = CandidateScores(margins, np.zeros(10), np.ones(10), np.ones(10))
    selector = registry.make_selector(SelectorSettings(selector="trimmed_margin"))

    def kept_margins(keep: int) -> set[float]:
        chosen = selector.select(Candidates(10, np.random.default_rng(0), scores), keep)
        return set(margins[chosen.kept].tolist())

    assert kept_margins(5) == {2, 3, 4, 5, 6}
    assert kept_margins(9) == {1, 2, 3, 4, 5, 6, 7, 8, 9}


def test_the_supervised_start_makes_the_answers_likelier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, to save the imports; on a tiny model of random weights."""
    source, target = save_tiny_qwen(tmp_path / "source", tied=True), tmp_path / "start"
    options = ["--steps", "4", "--batch-size", "8", "--learning-rate", "0.01"]
    monkeypatch.setattr(sys, "argv", ["supervised_start.py", "--model", str(source), "--output", str(target), *options])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    load_example("supervised_start").main()
    monkeypatch.delitem(sys.modules, "supervised_start")
    assert f"saved to {target}" in capsys.readouterr().out
    assert answer_loss(target) < answer_loss(source) - 0.5


def answer_loss(folder: Path) -> float:
    """Return the mean loss, in nats a token, of an answer to a question that no split of the start has."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 3 + 4?"}], add_generation_prompt=True, tokenize=False
    )
    asked = tokenizer(prompt, return_tensors="pt").input_ids
    ids = tokenizer(prompt + "The answer is 7.", return_tensors="pt").input_ids
    labels = ids.clone()
    labels[:, : asked.shape[1]] = -100
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    with torch.inference_mode():
        return float(model(input_ids=ids, labels=labels).loss)
