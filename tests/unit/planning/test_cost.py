"""Operations and bytes, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sage_dpo.planning.cost import (
    Sequences,
    StageCost,
    attention_flops,
    decode_cost,
    inference_flops,
    kv_cache_bytes,
    prefill_cost,
    step_flops,
)
from sage_dpo.planning.memory import cast_bytes, forward_bytes, layer_activation_bytes, resident_bytes, training_bytes
from sage_dpo.planning.shape import ModelShape, TrainingSetup, adapter_parameters

# Head 10 x 4 = 40, body 960. A layer has 480, its projections 2 x 4 x (4 + 2) = 48, so the MLP is 432 / 12 = 36 wide.
TOY = ModelShape(parameters=1000, layers=2, hidden=4, query_width=4, kv_width=2, vocabulary=10, tied=True)
THREE = Sequences(3, prompt=5, completion=2)
HEAD = 2 * 40 * 6  # 21 tokens, 6 of them completion
LINEAR = 2 * 960 * 21 + HEAD
ATTENTION = 4 * 2 * 4 * 3 * 7**2 / 2
MIXED = TrainingSetup(weight_bytes=4, compute_bytes=2)
HALF = TrainingSetup(weight_bytes=2, compute_bytes=2)


def test_shape_takes_itself_apart() -> None:
    assert (TOY.head, TOY.body, TOY.mlp_width) == (40, 960, 36)
    assert replace(TOY, tied=False).body == 920


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"parameters": 40}, {"parameters": 80, "tied": False}])
def test_a_shape_without_layers_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="model shape has"):
        replace(TOY, **wrong)


def test_inference_by_hand() -> None:
    assert attention_flops(TOY, THREE) == ATTENTION == 2352
    assert inference_flops(TOY, THREE) == LINEAR + ATTENTION == 43_152


def test_attention_grows_with_the_square_of_the_length_and_the_rest_does_not() -> None:
    short, long = Sequences(1, 0, 100), Sequences(1, 0, 200)
    assert attention_flops(TOY, long) == 4 * attention_flops(TOY, short)
    rest = [inference_flops(TOY, s) - attention_flops(TOY, s) for s in (short, long)]
    assert rest[1] == 2 * rest[0]


def test_training_all_weights_costs_three_forward_passes() -> None:
    assert step_flops(TOY, THREE, TrainingSetup()) == 3 * inference_flops(TOY, THREE) + HEAD


def test_checkpointing_adds_a_forward_pass_of_the_layers() -> None:
    for setup in (TrainingSetup(), TrainingSetup(adapters=50)):
        forward = inference_flops(TOY, THREE) + 2 * (setup.adapters or 0) * 21
        extra = step_flops(TOY, THREE, replace(setup, checkpointing=True)) - step_flops(TOY, THREE, setup)
        assert extra == forward - HEAD  # the loss runs the head again in any case


def test_frozen_weights_save_the_third_that_their_gradients_cost() -> None:
    assert step_flops(TOY, THREE, TrainingSetup(adapters=0)) == 2 * LINEAR + HEAD + 3 * ATTENTION
    saved = step_flops(TOY, THREE, TrainingSetup()) - step_flops(TOY, THREE, TrainingSetup(adapters=0))
    assert saved == LINEAR


def test_adapters_are_trained_whole() -> None:
    extra = step_flops(TOY, THREE, TrainingSetup(adapters=50)) - step_flops(TOY, THREE, TrainingSetup(adapters=0))
    assert extra == 6 * 50 * 21


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0])
def test_scoring_all_and_training_a_fraction_costs_one_plus_three_gamma(gamma: float) -> None:
    candidates = Sequences(128, 5, 2)
    kept = replace(candidates, count=gamma * 128)
    head = 2 * 40 * 2 * kept.count
    sage = inference_flops(TOY, candidates) + step_flops(TOY, kept, TrainingSetup()) - head
    assert sage / inference_flops(TOY, candidates) == pytest.approx(1 + 3 * gamma)


def test_prefill_and_decoding_together_are_one_forward_pass() -> None:
    prefill = prefill_cost(TOY, HALF, prompts=3, prompt=5, batch=4)
    decode = decode_cost(TOY, HALF, THREE, batch=4, longest=2, occupancy=1.0)
    assert prefill.flops + decode.flops == inference_flops(TOY, THREE)


def test_samples_of_a_prompt_share_its_prefill() -> None:
    once = prefill_cost(TOY, HALF, prompts=1, prompt=5, batch=1)
    assert once.flops == inference_flops(TOY, Sequences(1, 5, 0))
    assert once.bytes_moved == 960 * 2


def test_decoding_by_hand() -> None:
    # 8 completions of 4 tokens, 4 at a time: 8 steps, each reading 1000 weights of 2 bytes; and for each of 32 tokens a
    # cache of 5 + 4 / 2 tokens x 2 layers x 2 (keys, values) x 2 wide x 2 bytes = 112
    cost = decode_cost(TOY, HALF, Sequences(8, 5, 4), batch=4, longest=4, occupancy=1.0)
    assert cost.tokens == 32
    assert cost.bytes_moved == 8 * 2000 + 32 * 112
    assert cost.layer_calls == 8 * 2


def test_decoding_waits_for_the_longest_completion_and_for_idle_rows() -> None:
    base = decode_cost(TOY, HALF, Sequences(8, 5, 4), batch=4, longest=4, occupancy=1.0)
    tail = decode_cost(TOY, HALF, Sequences(8, 5, 4), batch=4, longest=10, occupancy=1.0)
    idle = decode_cost(TOY, HALF, Sequences(8, 5, 4), batch=4, longest=4, occupancy=0.5)
    assert tail.layer_calls - base.layer_calls == (10 - 4) * 2
    assert idle.layer_calls == 2 * base.layer_calls
    assert base.flops == tail.flops == idle.flops


def test_nothing_sampled_costs_nothing() -> None:
    cost = decode_cost(TOY, HALF, Sequences(0, 5, 4), batch=4, longest=9, occupancy=1.0)
    assert cost == StageCost()


def test_costs_add_up() -> None:
    assert StageCost(1, 2, 3, 5) + StageCost(10, 20, 30, 50) == StageCost(11, 22, 33, 55)


def test_a_weight_that_is_cast_is_moved_three_times() -> None:
    assert MIXED.read_bytes == 4 + 2 + 2  # read, written in half precision, and read again
    assert HALF.read_bytes == 2


def test_cache_by_hand() -> None:
    assert kv_cache_bytes(TOY, 10, 2) == 2 * 2 * 2 * 10 * 2


def test_adapters_by_hand() -> None:
    # r (in + out): q 8, k 6, v 6, o 8, gate, up and down 40 each = 148, two layers, r = 3
    assert adapter_parameters(TOY, 3) == 2 * 3 * 148
    assert adapter_parameters(TOY, 3, ["q_proj", "v_proj"]) == 2 * 3 * 14
    assert adapter_parameters(TOY, 3, ["no_such_module"]) == adapter_parameters(TOY, 3)


def test_what_a_trainer_holds_between_steps_by_hand() -> None:
    assert resident_bytes(TOY, MIXED) == 1000 * (4 + 8)
    assert resident_bytes(TOY, replace(MIXED, has_reference=True)) == 1000 * (4 + 8 + 4)
    adapters = TrainingSetup(adapters=50, weight_bytes=2, compute_bytes=2)
    assert resident_bytes(TOY, adapters) == 1000 * 2 + 50 * (4 + 8)
    assert (cast_bytes(TOY, MIXED), cast_bytes(TOY, adapters)) == (2000, 0)


def test_activations_by_hand() -> None:
    # 16 x 4 for the norms; 8 + 8 + 4 + 4 x 36 = 164 numbers that enter products
    assert layer_activation_bytes(TOY, 2) == 64 + 2 * 164
    assert layer_activation_bytes(TOY, 4) == 64 + 4 * 164


def test_training_memory_by_hand() -> None:
    # resident 12,000; half-precision copies 2,000; gradients 4,000 and the head's once more 160; logits 20 x 2
    fixed = 12_000 + 2_000 + 4_160 + 40
    assert training_bytes(TOY, MIXED, tokens=7, logit_elements=20) == fixed + 2 * 7 * 392
    saved = training_bytes(TOY, replace(MIXED, checkpointing=True), tokens=7, logit_elements=20)
    assert saved == fixed + 2 * 7 * 4 * 4 + 7 * 392  # two layer inputs in float32, and one layer whole


def test_adapters_hold_gradients_of_their_own_only() -> None:
    setup = TrainingSetup(adapters=50, weight_bytes=2, compute_bytes=2)
    gradients = training_bytes(TOY, setup, tokens=0, logit_elements=0) - resident_bytes(TOY, setup)
    assert gradients == 50 * 4


def test_a_forward_pass_holds_one_layer_and_its_logits() -> None:
    held = forward_bytes(TOY, tokens=7, logit_elements=20, compute_bytes=2, logit_bytes=6)
    assert held == 7 * 392 + 120
