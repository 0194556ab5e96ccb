"""`sage-dpo plan`, as a user would type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage_dpo.cli import app
from sage_dpo.errors import SageError
from sage_dpo.storage import read_json

ROOT = Path(__file__).parents[2]
ON_POLICY = ROOT / "recipes" / "on-policy.yaml"
QWEN = ("--parameters", "1543714304", "--layers", "28", "--hidden", "1536", "--kv-width", "256", "--vocabulary",
        "151936", "--tied")  # fmt: skip


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_recipe_on_a_named_gpu(tmp_path):
    output = invoke("plan", ON_POLICY, "--gpu", "L40S", "--json", tmp_path / "plan.json")
    assert output.startswith("Plan of on-policy: 1 x L40S")
    assert "sage (candidate pairs 3,840, trained pairs 1,920, refreshes 2)" in output
    for text in ("vanilla", "All arms", "measured on 256 of 320", "assumed (half of rollouts.max_new_tokens)"):
        assert text in output
    assert "warning" not in output
    result = read_json(tmp_path / "plan.json")
    parts = {part["name"]: part for part in result["parts"]}
    assert list(parts) == ["first pool", "vanilla", "dpo_full", "dpo_random", "sage"]
    assert result["total"]["flops"] == pytest.approx(sum(part["total"]["flops"] for part in parts.values()))


def test_a_recipe_whose_model_and_data_are_elsewhere():
    output = invoke("plan", ROOT / "recipes" / "gsm8k.yaml", "--gpu", "RTX-3090", *QWEN, "--problems", 7473,
                    "--prompt-tokens", 130, "--completion-tokens", 300)  # fmt: skip
    assert "warning: training (dpo_full, sage): about" in output
    assert "prompts: 130 tokens on average, as given" in output


def test_predicted_beside_measured(tmp_path):
    info = {"costs": {"generated_tokens": 1000}, "verdicts": {"correct": 2560}, "pairs": 384}
    manifest = {"stages": {"first-pool": {"seconds": 1.0, "info": info}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    output = invoke("plan", ON_POLICY, "--measured", tmp_path, "--completion-tokens", 20, "--json", tmp_path / "p.json")
    rows = {line.split("  ")[0]: line.split() for line in output.splitlines()}
    assert rows["pairs of a pool"][-3:] == ["768", "384", "2.00"]
    assert rows["verification"][-3:] == ["2,560", "2,560", "1.00"]
    assert "not in the run, or not complete there: vanilla, dpo_full, dpo_random, sage" in output
    assert read_json(tmp_path / "p.json")["measured"]["first pool"]["pairs of a pool"] == 384


def test_overrides_change_the_plan():
    assert "sage (candidate pairs 640, trained pairs 320" in invoke("plan", ON_POLICY, "--set", "training.steps=10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpu", "V100"), "A100-40GB, A100-80GB, H100-SXM"),
        (("--utilization", "2"), "utilization is 2.0"),
        (("--gpus", "0"), "--gpus is 0"),
        (("--tflops", "5"), "needs all of"),
        (("--completion-tokens", "0"), "--completion-tokens is 0"),
        (("--layers", "2"), "add --parameters, --hidden, --vocabulary"),
        (("--measured", "no-such-folder"), "not a run folder"),
    ],
)
def test_wrong_arguments_say_what_is_wanted(arguments, message):
    with pytest.raises(SageError, match=message):
        invoke("plan", ON_POLICY, *arguments)


def test_it_runs_nothing_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invoke("plan", ON_POLICY, "--set", "training.steps=1000000")
    assert list(tmp_path.iterdir()) == []
