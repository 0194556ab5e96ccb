"""Shared fixtures."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

hypothesis.settings.register_profile("steady", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under `integration` is slow."""
    folder = Path(__file__).parent / "integration"
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Shared, do not modify; `make_tiny_tokenizer()` gives a private one."""
    return make_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_model() -> Qwen2ForCausalLM:
    """Shared, do not train or modify; copy it (`copy.deepcopy`) first."""
    return make_tiny_model()


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny policy with its tokenizer, as saved; shared, do not write into it."""
    folder = tmp_path_factory.mktemp("policy")
    make_tiny_model().save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """Folder of the benchmark files beside the checkout; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "benchmarks"
    if not folder.is_dir():
        pytest.skip(f"benchmark data not found at {folder}")
    return folder
