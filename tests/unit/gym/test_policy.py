"""Base policies: training is deterministic and learns, the bundled policy is what its card says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sage_dpo.errors import ConfigError
from sage_dpo.gym.misconceptions import diagnose
from sage_dpo.gym.policy import SIZES, build_policy, bundled_policy_path, train_policy
from sage_dpo.gym.suites import SUITES, load_suite
from sage_dpo.gym.tokenizer import build_tokenizer
from sage_dpo.gym.world import story_of


@pytest.mark.parametrize(("size", "low", "high"), [("S", 0.3e6, 0.4e6), ("M", 2e6, 3e6), ("L", 9e6, 12e6)])
def test_sizes_are_as_named(size: str, low: float, high: float) -> None:
    assert low < build_policy(size, build_tokenizer(), seed=0).num_parameters() < high


@pytest.mark.slow
def test_sixteen_steps_reduce_the_loss_and_repeat_exactly(tmp_path: Path) -> None:
    runs = [train_policy("S", tmp_path / name, seed=3, steps=16, progress=False) for name in ("a", "b")]
    assert runs[0] == runs[1]
    assert runs[0]["last_loss"] < 0.8 * runs[0]["first_loss"]
    first, second = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_building_a_policy_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    build_policy("S", build_tokenizer(), seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_unknown_or_unbundled_sizes_are_rejected() -> None:
    with pytest.raises(ConfigError, match="unknown gym policy size 'XL'"):
        train_policy("XL", Path("unused"), seed=0)
    with pytest.raises(ConfigError, match="steps is 0, expected at least 1"):
        train_policy("S", Path("unused"), seed=0, steps=0)
    with pytest.raises(ConfigError, match="no bundled gym policy 'L'"):
        bundled_policy_path("L")
    assert set(SIZES) == {"S", "M", "L"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "track", "parameters", "megabytes", "right"),
    [
        ("S", "standard", 350_592, 1.5, (0.35, 0.75)),
        ("M", "standard", 2_251_776, 4.6, (0.35, 0.75)),
        ("S-hard", "hard", 350_592, 1.5, (0.25, 0.5)),
    ],
)
@torch.inference_mode()
def test_bundled_policy_is_partly_right_and_its_format_is_sound(
    name: str, track: str, parameters: int, megabytes: float, right: tuple[float, float]
) -> None:
    path = bundled_policy_path(name)
    assert (path / "model.safetensors").stat().st_size < megabytes * 1e6
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    assert model.num_parameters() == parameters
    assert model.dtype == torch.float32
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    suites = [suite for suite in SUITES[track] if suite != "longer"]
    problems = [problem for suite in suites for problem in load_suite(suite, track)[:16]]
    prompts = [[{"role": "user", "content": problem.problem}] for problem in problems]
    batch = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    output = model.generate(**batch, do_sample=False, max_new_tokens=64)
    texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    found = [diagnose(story_of(problem), text) for problem, text in zip(problems, texts, strict=True)]
    assert right[0] < sum(d is None for d in found) / len(found) < right[1]
    assert sum(d is not None and d.cause == "structure" for d in found) / len(found) < 0.1
