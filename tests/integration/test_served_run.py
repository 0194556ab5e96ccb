"""A whole run on policy with a server that follows the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.policy_server import PolicyServer

from sage_dpo.config import PolicySettings, RunConfig, validate
from sage_dpo.pipeline.policies import load_model, load_tokenizer
from sage_dpo.pipeline.run import run
from sage_dpo.records import Completion
from sage_dpo.storage import read_json, read_records

POLICY = PolicySettings(path="gym:S")


def recipe(server: PolicyServer, kind: str, **changes: Any) -> RunConfig:
    engine = {"kind": "server", "base_url": server.url, "model": "tiny", "sync": {"kind": kind}, "backoff_s": 0.05}
    return validate(
        RunConfig,
        {
            "name": "served",
            "policy": {"path": "gym:S", **({"lora": {"r": 4, "alpha": 8}} if kind == "lora" else {})},
            "problems": {"kind": "gym", "split": "train", "count": 12},
            "rollouts": {"samples": 4, "max_new_tokens": 96, "engine": {**engine, **changes}},
            "verification": {"workers": 1},
            "pool": {"refresh_steps": 1},
            "training": {
                "steps": 3,
                "pairs_per_step": 4,
                "microbatch_size": 4,
                "learning_rate": 1e-3,
                "max_length": 256,
                "trainer": {"gradient_checkpointing": False},
            },
            "evaluation": None,
        },
    )


@pytest.mark.parametrize("kind", ["reload", "lora"])
def test_each_pool_is_sampled_from_the_policy_of_its_refresh(kind: str, tmp_path: Path) -> None:
    with PolicyServer(load_tokenizer(POLICY), policy=load_model(POLICY).eval()).serve() as server:
        folder = run(recipe(server, kind, check_policy=True), output=tmp_path / "run", progress=False)
    arm = folder / "arms" / "sage"
    for version, pool in enumerate((folder / "first-pool", arm / "refresh-001", arm / "refresh-002")):
        completions = read_records(pool / "completions.parquet", Completion)
        assert len(completions) == 48
        assert {completion.policy_version for completion in completions} == {version}
        assert not (pool / "served-policy").exists()
    written = [str(arm / f"refresh-{version:03d}" / "served-policy") for version in (1, 2)]
    assert server.loaded[-2:] == written
    assert read_json(folder / "summary.json")["arms"]["sage"]["train_tokens"] > 0
