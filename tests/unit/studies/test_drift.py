"""What training did to the first answers, against two scorings by hand, on a tiny policy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sage_dpo.config import RunConfig, validate
from sage_dpo.forward import TokenizedCompletion, score_completions
from sage_dpo.records import Completion, FinishReason, Verdict, VerdictKind
from sage_dpo.run_folder import RunFolder
from sage_dpo.storage import write_records
from sage_dpo.studies.drift import drift

KINDS = [VerdictKind.CORRECT, VerdictKind.WRONG, VerdictKind.WRONG, VerdictKind.TIMEOUT, VerdictKind.CORRECT]


def make_samples() -> list[Completion]:
    rng = np.random.default_rng(0)
    ids = lambda high: tuple(rng.integers(5, 60, size=rng.integers(1, high)).tolist())  # noqa: E731
    return [Completion("p", i, "", (7, 8, 9), ids(12), FinishReason.STOP) for i in range(len(KINDS))]


def make_run(root: Path, policy: str, trained: torch.nn.Module) -> tuple[list[SimpleNamespace], dict[int, RunConfig]]:
    """A run of one seed: graded samples, an untrained arm, an arm that changed nothing, one that trained."""
    run = RunFolder(root)
    samples = make_samples()
    write_records(run.first_pool.completions, samples, Completion)
    verdicts = [Verdict("p", c.sample, kind) for c, kind in zip(samples, KINDS, strict=True)]
    write_records(run.first_pool.verdicts, verdicts, Verdict)
    AutoModelForCausalLM.from_pretrained(policy).save_pretrained(run.arm("same").policy)
    trained.save_pretrained(run.arm("trained").policy)
    values = {
        "name": "tiny",
        "seed": 3,
        "policy": {"path": policy},
        "problems": {"kind": "gym", "count": 1},
        "evaluation": None,
        "training": {"steps": 1, "pairs_per_step": 1},
        "arms": {"vanilla": {"train": False}, "same": {}, "trained": {}},
    }
    outcomes = [SimpleNamespace(seed=3, arm=arm, folder=run.arm(arm)) for arm in ("vanilla", "same", "trained")]
    return outcomes, {3: validate(RunConfig, values)}


def test_changes_are_those_of_two_scorings(policy_folder: str, tmp_path: Path) -> None:
    trained = AutoModelForCausalLM.from_pretrained(policy_folder)
    with torch.no_grad():
        trained.lm_head.weight.mul_(1.5)
    found = drift(*make_run(tmp_path, policy_folder, trained))
    assert set(found) == {"same", "trained"}
    assert all(values["mean"] == pytest.approx(0.0, abs=1e-9) for values in found["same"].values())
    rows = [TokenizedCompletion(c.prompt_ids, c.token_ids) for c in make_samples()]
    start = AutoModelForCausalLM.from_pretrained(policy_folder)
    before, after = (score_completions(model, rows, token_budget=4096).logps for model in (start, trained))
    right, wrong = [0, 4], [1, 2]  # the fourth was never graded
    change = after - before
    assert abs(change).min() > 1e-3
    expected = {"correct": change[right].mean(), "wrong": change[wrong].mean(), "kl": -change[right + wrong].mean()}
    assert {name: values["mean"] for name, values in found["trained"].items()} == pytest.approx(expected, rel=1e-5)
