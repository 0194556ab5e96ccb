"""What comes from outside is data: it is not executed, and does not choose where files go."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer

from sage_dpo.config import PolicySettings, RunConfig, validate
from sage_dpo.errors import ConfigError
from sage_dpo.pipeline.policies import load_model, load_tokenizer
from sage_dpo.selection.checkpoint import load_state, save_state


class Touch:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    make_tiny_model().save_pretrained(tmp_path / "policy")
    make_tiny_tokenizer().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_pickled_weights_are_refused_and_not_opened(policy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (policy / "model.safetensors").unlink()
    with (policy / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Touch(mark), file)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(PolicySettings(path=str(policy)))
    torch.save(make_tiny_model().state_dict(), policy / "pytorch_model.bin")  # harmless, but no safetensors either
    with pytest.raises(ConfigError, match="safetensors"):
        load_model(PolicySettings(path=str(policy)))
    assert not mark.exists()


def test_code_beside_the_weights_is_not_run(policy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (policy / "modeling.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Model: pass\n")
    config = json.loads((policy / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    (policy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(PolicySettings(path=str(policy)))
    load_tokenizer(PolicySettings(path=str(policy)))  # its files are whole, and name no code
    assert not mark.exists()


def test_objects_in_a_checkpoints_arrays_are_refused(tmp_path: Path) -> None:
    arrays = {"keys": np.zeros((0, 16), np.uint8), "values": np.zeros(0), "fingerprint": np.array("x")}
    save_state(tmp_path, {"reference": arrays, "scores": arrays, "success_rates": np.zeros(1), "exclusions": {}})
    load_state(tmp_path)
    mark = tmp_path / "mark"
    evil = np.array([Touch(mark)], dtype=object)
    shutil.copy(tmp_path / "sage_reference.npz", tmp_path / "good.npz")
    np.savez(tmp_path / "sage_reference.npz", values=evil)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_state(tmp_path)
    shutil.copy(tmp_path / "good.npz", tmp_path / "sage_reference.npz")
    np.save(tmp_path / "sage_success_rates.npy", evil)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_state(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["..", ".", "../x", "/x", "a/b", "", ".hidden", "a\n", "a\x00b"])
def test_names_of_runs_arms_and_suites_cannot_leave_the_folder(name: str) -> None:
    recipe: dict[str, Any] = {"name": "x", "problems": {"kind": "gym"}, "arms": {"sage": {}}}
    files = {"suites": {"kind": "files", "files": {name: {"path": "p.jsonl"}}}}
    for changes in ({"name": name}, {"arms": {name: {}}}, {"evaluation": files}):
        with pytest.raises(ConfigError):
            validate(RunConfig, {**recipe, **changes})
