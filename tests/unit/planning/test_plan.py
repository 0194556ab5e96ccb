"""A plan counts what the pipeline will do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from sage_dpo.config import PolicySettings, RunConfig, load_config
from sage_dpo.errors import ConfigError
from sage_dpo.everyday.suites import SUITES
from sage_dpo.planning import Given, find_machine, plan_recipe
from sage_dpo.planning.inputs import Inputs, gather_inputs, read_model_shape
from sage_dpo.planning.lengths import Lengths
from sage_dpo.planning.memory import layer_activation_bytes
from sage_dpo.planning.plan import Plan, PlanPart, make_plan
from sage_dpo.planning.shape import ModelShape, adapter_parameters

ROOT = Path(__file__).parents[3]
ON_POLICY = ROOT / "recipes" / "on-policy.yaml"
QWEN_7B = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
SHAPE = ModelShape(350_592, 3, 96, 96, 96, 177, tied=True)
INPUTS = Inputs(SHAPE, 4, Lengths(40.0, 20.0, 60, 96, 156), problems=320, probe=256)


def recipe(overrides: dict[str, Any] | None = None) -> RunConfig:
    return load_config(ON_POLICY, overrides)


def plan(overrides: dict[str, Any] | None = None, inputs: Inputs = INPUTS, gpu: str = "H100") -> Plan:
    return make_plan(recipe(overrides), find_machine(gpu), inputs)


def part(result: Plan, name: str) -> PlanPart:
    return next(part for part in result.parts if part.name == name)


def tokens(result: Plan, name: str) -> dict[str, float]:
    return {stage.name: stage.tokens for stage in part(result, name).stages}


# -- counts ------------------------------------------------------------------------------------------------------------


def test_steps_times_candidates_and_the_kept_share_of_them() -> None:
    result = plan()
    for arm, gamma in (("dpo_full", 1.0), ("dpo_random", 0.5), ("sage", 0.5)):
        counts = part(result, arm).counts
        assert counts["candidate pairs"] == 60 * 64
        assert counts["trained pairs"] == gamma * 60 * 64
        assert tokens(result, arm)["training"] == gamma * 60 * 64 * 2 * (40 + 20)


@pytest.mark.parametrize(("steps", "every", "refreshes"), [(60, 20, 2), (61, 20, 3), (20, 20, 0), (60, 0, 0)])
def test_there_is_no_refresh_after_the_last_step(steps: int, every: int, refreshes: int) -> None:
    result = plan({"training.steps": steps, "pool.refresh_steps": every})
    assert part(result, "sage").counts["refreshes"] == refreshes == ((steps - 1) // every if every else 0)
    assert tokens(result, "sage").get("rollouts, refreshes", 0.0) == refreshes * 320 * 8 * 20


def test_only_a_selector_that_looks_is_charged_for_scoring() -> None:
    result = plan()
    assert "scoring" in tokens(result, "sage")
    assert not {"scoring"} & {*tokens(result, "dpo_full"), *tokens(result, "dpo_random")}
    assert tokens(result, "sage")["scoring"] == pytest.approx(60 * 128 * 60, rel=0.02)  # few shared completions


def test_first_pool_and_first_probe_are_shared() -> None:
    assert tokens(plan(), "first pool") == {
        "rollouts, first pool": 320 * 8 * 20,
        "verification": 320 * 8,
        "probe": 256 * 20,
    }
    assert tokens(plan(), "sage")["probe"] == 6 * 256 * 20  # every 10 of 60 steps
    assert tokens(plan({"training.probe_steps": 45}), "sage")["probe"] == 2 * 256 * 20  # after 45 and the last


def test_suites_on_the_way_are_sampled_and_graded_as_well() -> None:
    inputs = gather_inputs(recipe(), Given(prompt_tokens=40, completion_tokens=20))
    once = plan(inputs=inputs)
    assert tokens(once, "vanilla") == {"verification": 1600, "evaluation": 1600 * 20}
    twice = plan({"evaluation.at_steps": [30, 60]}, inputs=inputs)  # after the last step is the end, not the way
    assert tokens(twice, "sage")["evaluation"] == 2 * 1600 * 20
    assert tokens(twice, "sage")["verification"] - tokens(once, "sage")["verification"] == 1600
    best = plan({"evaluation.at_best": True}, inputs=inputs)
    assert tokens(best, "vanilla") == tokens(once, "vanilla")
    assert tokens(best, "sage")["evaluation"] == 2 * 1600 * 20
    assert tokens(best, "sage")["verification"] == tokens(twice, "sage")["verification"]


def test_the_reference_is_run_once_per_completion() -> None:
    result = plan({"pool.refresh_steps": 0, "training.steps": 1000})
    pool = part(result, "first pool").counts["pairs of a pool"]
    assert pool == 320 * 0.6 * 4
    assert tokens(result, "dpo_full")["reference"] < pool * 2 * 60
    assert tokens(result, "dpo_full")["reference"] == pytest.approx(tokens(result, "sage")["reference"])


def test_implicit_margins_need_the_reference_of_every_candidate() -> None:
    implicit = plan({"selection.margin": "implicit"})
    assert tokens(implicit, "sage")["reference"] == tokens(implicit, "dpo_full")["reference"]
    assert tokens(plan(), "sage")["reference"] < tokens(implicit, "sage")["reference"]


def test_totals_are_sums_and_the_largest_memory() -> None:
    result = plan()
    stages = [stage for part in result.parts for stage in part.stages]
    assert result.total.hours == pytest.approx(sum(stage.hours for stage in stages))
    assert result.total.flops == pytest.approx(sum(stage.flops for stage in stages))
    assert result.total.memory_gb == max(stage.memory_gb for stage in stages)
    assert json.loads(json.dumps(result.as_dict()))["total"]["hours"] == result.total.hours


def test_several_gpus_share_training_and_sampling() -> None:
    one, four = (make_plan(recipe(), find_machine("H100", count=count), INPUTS) for count in (1, 4))
    hours = [{stage.name: stage.hours for stage in part(result, "sage").stages} for result in (one, four)]
    assert hours[1]["training"] == pytest.approx(hours[0]["training"] / 4)
    sampling = [of["rollouts, refreshes"] for of in hours]
    assert sampling[0] / 4 <= sampling[1] < sampling[0]  # each has a last batch that runs until its longest has ended
    assert tokens(four, "sage") == pytest.approx(tokens(one, "sage"))
    assert any("4 GPUs share rollouts, probe, evaluation" in note for note in four.notes)


def test_sequences_that_run_without_padding_save_its_operations() -> None:
    bucketed, packed = (
        {stage.name: stage.flops for stage in part(plan({"policy.attn_implementation": kind}), "sage").stages}
        for kind in ("sdpa", "flash_attention_2")
    )
    assert bucketed["scoring"] == pytest.approx(1.1 * packed["scoring"])
    assert bucketed["training"] == pytest.approx(1.1 * packed["training"])
    assert bucketed["rollouts, refreshes"] == packed["rollouts, refreshes"]


def test_checkpointing_takes_time_and_saves_memory() -> None:
    plain, saving = (plan({"training.trainer.gradient_checkpointing": value}) for value in (False, True))
    before, after = (next(s for s in part(p, "sage").stages if s.name == "training") for p in (plain, saving))
    assert after.flops == pytest.approx(before.flops * 4 / 3, rel=0.01)
    assert after.memory_gb < before.memory_gb


def test_fixed_pairs_are_measured_not_sampled() -> None:
    config = load_config(
        ROOT / "recipes" / "fixed-lora.yaml", {"pairs.path": str(ROOT / "examples" / "preferences.jsonl")}
    )
    result = plan_recipe(config, find_machine("T4"))
    assert not [part for part in result.parts if any("rollouts" in stage.name for stage in part.stages)]
    assert part(result, "first pool").counts["pairs of a pool"] == 327
    assert part(result, "dpo_full").counts["trained pairs"] == 40 * 64
    assert any("measured on 256 of 327" in note for note in result.notes)


def test_a_server_samples_in_bfloat16_whatever_the_policy_is_loaded_in() -> None:
    server = {"kind": "server", "base_url": "http://localhost:8000/v1"}
    overrides = {"rollouts.engine": server, "pool.refresh_steps": 0}
    first = [part(plan({**overrides, "policy.lora": lora}, replace(INPUTS, weight_bytes=size)), "first pool").stages[0]
             for lora, size in ((None, 4), ({"r": 4}, 2))]  # fmt: skip
    assert first[0] == first[1]
    assert first[0].memory_gb < part(plan({"pool.refresh_steps": 0}), "first pool").stages[0].memory_gb
    notes = " ".join(plan(overrides).notes)
    assert "the evaluation is sampled in float32" in notes
    assert "rollouts are those of one server, with bfloat16 weights" in notes


def test_held_out_problems_are_probed_and_not_sampled_from() -> None:
    config = recipe({"probe": {"kind": "held_out", "count": 100}})
    inputs = gather_inputs(config, Given())
    assert (inputs.problems, inputs.probe) == (320 - 100, 100)
    assert gather_inputs(config, Given(problems=1000)).problems == 900


def test_everyday_questions_and_suites_are_counted_from_their_records() -> None:
    sections = {"problems": {"kind": "everyday", "count": 30}, "evaluation": {"suites": {"kind": "everyday"}}}
    inputs = gather_inputs(recipe(sections), Given(prompt_tokens=1))
    assert inputs.problems == 30
    assert {name: size.problems for name, size in inputs.suites.items()} == {
        name: suite.expected_size for name, suite in SUITES.items()
    }
    assert {size.samples for size in inputs.suites.values()} == {1}


def test_several_files_count_together_and_those_that_are_missing_are_named(tmp_path: Path) -> None:
    problem = {"problem": "1 + 1?", "answer": "2"}
    (tmp_path / "p.jsonl").write_text(json.dumps(problem) + "\n" + json.dumps({**problem, "problem": "?"}) + "\n")
    files = {name: {"path": str(tmp_path / name)} for name in ("p.jsonl", "q.jsonl")}
    config = recipe({"problems": {"kind": "files", "files": files}})
    with pytest.raises(ConfigError, match=r"problems file '[^']*q\.jsonl' does not exist"):
        gather_inputs(config, Given(prompt_tokens=10))
    assert gather_inputs(config, Given(prompt_tokens=10, problems=7)).problems == 7
    limited = {name: {**file, "limit": 5} for name, file in files.items()}
    assert (
        gather_inputs(recipe({"problems": {"kind": "files", "files": limited}}), Given(prompt_tokens=1)).problems == 10
    )
    (tmp_path / "q.jsonl").write_text(json.dumps({**problem, "problem": "?"}) + "\n")
    assert gather_inputs(config, Given()).problems == 2


def test_strata_without_success_rates_cost_a_pass_over_the_pool() -> None:
    overrides = {
        "policy.lora": None, "pairs.path": str(ROOT / "examples" / "preferences.jsonl"), "policy.path": "gym:S",
    }  # fmt: skip
    config = load_config(ROOT / "recipes" / "fixed-lora.yaml", overrides)
    inputs = gather_inputs(config, Given())
    known, unknown = (
        make_plan(config, find_machine("T4"), replace(inputs, has_success_rates=value)) for value in (True, False)
    )
    assert inputs.fixed_pool is not None
    pool = inputs.fixed_pool.completions * (inputs.lengths.prompt + inputs.lengths.completion)
    assert tokens(unknown, "sage")["scoring"] - tokens(known, "sage")["scoring"] == pytest.approx(pool)
    assert "reference" not in tokens(unknown, "sage")  # the same numbers, before the first step


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_lengths_are_measured_on_the_recipes_own_prompts() -> None:
    inputs = gather_inputs(recipe(), Given())
    assert 25 < inputs.lengths.prompt < 50
    assert inputs.lengths.completion == 48
    assert inputs.problems == 320
    assert inputs.probe == 256
    assert {suite.problems for suite in inputs.suites.values()} == {200}
    assert [note for note in inputs.notes if "measured on 256 of 320" in note]
    assert [note for note in inputs.notes if "assumed (half of rollouts.max_new_tokens)" in note]


def test_shape_comes_from_the_configuration_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B))
    shape, dtype = read_model_shape(PolicySettings(path=str(tmp_path)))
    assert shape == ModelShape(7_615_616_512, 28, 3584, 3584, 512, 152_064, tied=False)
    assert dtype == "bfloat16"
    assert shape.mlp_width == pytest.approx(18_944, rel=1e-3)
    assert read_model_shape(PolicySettings())[0] == SHAPE


def test_a_model_that_is_not_here_names_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--parameters, --layers, --hidden"):
        plan_recipe(recipe({"policy.path": str(tmp_path / "nowhere")}), find_machine("H100"))


def test_a_shape_given_in_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="add --layers, --hidden, --vocabulary"):
        plan_recipe(recipe(), find_machine("H100"), Given(parameters=1e9))


def test_problems_that_are_not_here_need_a_number_and_a_length(tmp_path: Path) -> None:
    config = recipe({"problems": {"kind": "file", "path": str(tmp_path / "none.jsonl")}})
    with pytest.raises(ConfigError, match="--problems"):
        plan_recipe(config, find_machine("H100"))
    with pytest.raises(ConfigError, match="--prompt-tokens"):
        plan_recipe(config, find_machine("H100"), Given(problems=100))
    result = plan_recipe(config, find_machine("H100"), Given(problems=100, prompt_tokens=40))
    assert tokens(result, "first pool")["verification"] == 800


# -- memory ------------------------------------------------------------------------------------------------------------


def big_model(folder: Path, overrides: dict[str, Any], gpu: str) -> Plan:
    (folder / "config.json").write_text(json.dumps(QWEN_7B))
    values = {"policy.path": str(folder), "training.max_length": 2048, "rollouts.max_new_tokens": 1024, **overrides}
    return plan_recipe(recipe(values), find_machine(gpu), Given(prompt_tokens=150))


def test_a_big_model_on_a_small_gpu_is_warned_of_with_the_knobs_to_turn(tmp_path: Path) -> None:
    warnings = "\n".join(big_model(tmp_path, {}, "RTX-4090").warnings)
    for text in (
        "training (dpo_full, dpo_random, sage): about",
        "RTX-4090 has 24",
        "microbatch_size",
        "gradient_checkpointing",
        "lora",
    ):
        assert text in warnings
    assert "score_token_budget" in warnings
    assert "batch_size" in warnings


def test_adapters_on_half_precision_weights_fit(tmp_path: Path) -> None:
    small = {
        "policy.lora": {"r": 16}, "policy.dtype": "bfloat16", "training.microbatch_size": 1,
        "training.trainer.gradient_checkpointing": True, "rollouts.engine.batch_size": 128,
    }  # fmt: skip
    result = big_model(tmp_path, small, "A100-80GB")
    assert result.warnings == ()
    full = big_model(tmp_path, {}, "A100-80GB")
    assert full.total.memory_gb > 18 * 7.6  # float32 weights, copies in half precision, gradients, two moments
    assert full.total.memory_gb > 4 * result.total.memory_gb


def test_activations_are_what_pytorch_saves() -> None:
    """In float32, of one layer: what three layers save beyond what two do."""

    def saved(layers: int) -> int:
        config = LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            held = model.model(input_ids=torch.zeros(2, 32, dtype=torch.long)).last_hidden_state
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
        assert held.requires_grad
        return sum(size for pointer, size in storages.items() if pointer not in weights)

    layer = 2 * 64 * (64 + 32) + 3 * 64 * 256
    shape = ModelShape(parameters=2 * layer + 64 * 64, layers=2, hidden=64, query_width=64, kv_width=32,
                       vocabulary=64, tied=True)  # fmt: skip
    assert layer_activation_bytes(shape, 4) == pytest.approx((saved(3) - saved(2)) / 64, rel=0.02)


def test_adapter_count_is_that_of_peft() -> None:
    from peft import LoraConfig, get_peft_model

    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=8, target_modules="all-linear"))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    layer = 2 * 64 * (64 + 32) + 3 * 64 * 256
    shape = ModelShape(2 * layer + 64 * 64, 2, 64, 64, 32, 64, tied=True)
    assert adapter_parameters(shape, 8) == trained
