"""A prompt run once for several completions gives each what it gets alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from tests.support.completions import make_shared_completions, score_one, tokens_run
from tests.support.flash import FlashAttention, uses_flash_attention
from tests.support.small_models import WITH_WINDOWS, make_small
from tests.support.tiny import make_tiny_model

from sage_dpo.forward import TokenizedCompletion, prefix_sharing, score_completions
from sage_dpo.forward.packing import PACKED_MODELS, has_windows
from sage_dpo.forward.prefix_sharing import (
    Segment,
    is_worth_sharing,
    segment_arguments,
    segments_of,
    supports_prefix_sharing,
)


@pytest.fixture
def flash(monkeypatch):
    attention = FlashAttention()
    attention.install(monkeypatch)
    return attention


@pytest.fixture(autouse=True)
def shares_short_prompts(monkeypatch):
    monkeypatch.setitem(prefix_sharing.MIN_SAVED_PER_SEGMENT, "cpu", 0)


def shared_length(completions) -> int:
    prompts = {c.prompt_ids for c in completions}
    again = len(completions) - len(prompts)  # a prompt's last token is run again for every further completion
    return sum(map(len, prompts)) + sum(len(c.completion_ids) for c in completions) + again


def test_segments_by_hand():
    segments = segments_of(["aaa", "aaa", "bb", "aaa"], np.array([5, 6, 4, 7]))
    assert segments == [Segment(5, 0, 0), Segment(4, 2, 0), Segment(4, 0, 2), Segment(5, 2, 0)]
    assert sum(segment.length for segment in segments) == 18


def test_what_is_worth_sharing_by_hand(monkeypatch):
    monkeypatch.setitem(prefix_sharing.MIN_SAVED_PER_SEGMENT, "cpu", 8)
    model = make_tiny_model()
    assert is_worth_sharing(model, [Segment(90, 0, 0), Segment(90, 20, 0)], "cpu")  # 20 of 200
    assert not is_worth_sharing(model, [Segment(90, 0, 0), Segment(91, 19, 0)], "cpu")
    assert not is_worth_sharing(model, [Segment(20, 0, 0), Segment(8, 15, 0)], "cpu")  # a third, but 7.5 a segment
    assert not is_worth_sharing(model, [Segment(600, 0, 0), Segment(100, 511, 0)], "cuda")
    assert is_worth_sharing(model, [Segment(600, 0, 0), Segment(100, 512, 0)], "cuda")
    uses_flash_attention(model)  # one call for all segments
    assert is_worth_sharing(model, [Segment(5, 0, 0), Segment(5, 2, 0)], "cuda")
    assert not is_worth_sharing(model, [Segment(5, 0, 0), Segment(6, 0, 1)], "cuda")


def test_arguments_by_hand(flash):
    segments = [Segment(5, 0, 0), Segment(2, 3, 0), Segment(3, 0, 2)]
    arguments = segment_arguments(uses_flash_attention(make_tiny_model()), segments, "cpu")
    assert arguments["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 0, 1, 2]]
    assert arguments["cu_seq_lens_q"].tolist() == [0, 5, 7, 10]
    assert arguments["cu_seq_lens_k"].tolist() == [0, 5, 10, 13]
    assert (arguments["max_length_q"], arguments["max_length_k"]) == (5, 5)
    assert arguments["key_index"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8, 9]
    assert segment_arguments(make_tiny_model(), segments, "cpu")["position_ids"].equal(arguments["position_ids"])


@pytest.mark.parametrize("masked", [3, 512])
@pytest.mark.parametrize("token_budget", [1, 40, 100_000])
def test_scores_are_those_of_single_sequences(token_budget, masked, monkeypatch):
    monkeypatch.setattr(prefix_sharing, "_MAX_MASKED", masked)
    model, completions = make_tiny_model(), make_shared_completions(longest=30)
    scores = score_completions(model, completions, token_budget=token_budget)
    expected = np.array([score_one(model, c) for c in completions])
    np.testing.assert_allclose(scores.logps, expected[:, 0], rtol=1e-4)
    np.testing.assert_allclose(scores.informativeness, expected[:, 1], rtol=1e-4)
    assert scores.tokens == sum(map(len, completions))  # what they hold, however they are run


def test_prompts_are_run_once_within_the_budget():
    completions = make_shared_completions(longest=30)
    apart = sum(map(len, completions))
    assert tokens_run(completions, token_budget=100_000) == [shared_length(completions)]
    assert shared_length(completions) < 0.8 * apart
    assert sum(tokens_run(completions, token_budget=1)) == apart  # nothing fits together
    some = tokens_run(completions, token_budget=60)
    assert shared_length(completions) < sum(some) < apart
    assert max(some) <= 60


@pytest.mark.parametrize("attention", ["flash_attention_2", "sdpa"])
@pytest.mark.parametrize("model_type", sorted(PACKED_MODELS))
def test_every_listed_model_shares_prompts(model_type, attention, flash):
    model, completions = make_small(model_type, "eager"), make_shared_completions()
    expected = score_completions(model, completions, token_budget=1).logps
    model.config._attn_implementation = attention
    assert has_windows(model.config) is (model_type in WITH_WINDOWS)
    can_share = attention == "flash_attention_2" or model_type not in WITH_WINDOWS
    assert supports_prefix_sharing(model) is can_share
    if can_share:
        assert tokens_run(completions, 10_000, model) == [shared_length(completions)]
        found = score_completions(model, completions, token_budget=10_000)
        np.testing.assert_allclose(found.logps, expected, atol=1e-3)


def test_prompts_are_run_apart_where_that_saves_little():
    completions = [TokenizedCompletion((5, 6, 7), tuple(range(8, 50))), TokenizedCompletion((5, 6, 7), (9, 8, 7))]
    assert tokens_run(completions, token_budget=1000) == [2 * 45]  # padded; 2 of 51 would be saved
    more = [TokenizedCompletion((5, 6, 7), (9, last)) for last in (8, 9, 10)]
    assert tokens_run([*completions, *more], token_budget=1000) == [45 + 4 + 3 * 3]  # 8 of 66


def test_attention_without_segments_is_what_it_was():
    model = make_tiny_model()
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        score_completions(model, make_shared_completions(), token_budget=1000)
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=0, atol=0)


def test_which_models_share_prompts():
    assert supports_prefix_sharing(make_tiny_model())
    assert supports_prefix_sharing(get_peft_model(make_tiny_model(), LoraConfig(target_modules=["q_proj"])))
    prompt_tuning = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    assert not supports_prefix_sharing(get_peft_model(make_tiny_model(), prompt_tuning))
    assert not supports_prefix_sharing(torch.nn.Linear(2, 2))
    for attention in ("eager", "flex_attention"):
        model = make_tiny_model()
        model.config._attn_implementation = attention
        assert not supports_prefix_sharing(model), attention
    compiled = make_tiny_model()
    compiled.model.layers[0].compile()
    assert not supports_prefix_sharing(compiled)
    assert not supports_prefix_sharing(torch.compile(make_tiny_model()))


def test_adapters_count_and_autocast_holds():
    model = get_peft_model(make_tiny_model(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    completions = make_shared_completions()
    alone = score_completions(model, completions, token_budget=1)
    shared = score_completions(model, completions, token_budget=1000)
    assert tokens_run(completions, 1000, model) == [shared_length(completions)]
    np.testing.assert_allclose(shared.logps, alone.logps, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = score_completions(model, completions, token_budget=1000)
    np.testing.assert_allclose(rough.logps, alone.logps, rtol=0.05)


def test_an_adapter_that_begins_within_a_row_shares_nothing():
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, target_modules=["q_proj"], alora_invocation_tokens=[5, 6], init_lora_weights=False
    )
    model = get_peft_model(make_tiny_model(), config).eval()
    assert not supports_prefix_sharing(model)
    completions = [TokenizedCompletion((*range(8, 20), 5, 6, 7), (9, 8, last)) for last in range(10, 14)]
    alone = score_completions(model, completions, token_budget=1)
    np.testing.assert_allclose(score_completions(model, completions, token_budget=1000).logps, alone.logps, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_the_loss_of_a_router_finds_a_mask_of_its_tokens(model_type):
    model, completions = make_small(model_type, "eager"), make_shared_completions()
    expected = score_completions(model, completions, token_budget=1).logps
    model.config._attn_implementation, model.config.output_router_logits = "sdpa", True
    assert tokens_run(completions, 10_000, model) == [shared_length(completions)]
    np.testing.assert_allclose(score_completions(model, completions, token_budget=10_000).logps, expected, atol=1e-3)


def test_attention_that_ignores_segments_fails_instead_of_seeing_everything(monkeypatch):
    model = make_tiny_model()

    def deaf(module, query, key, value, attention_mask, **_):
        is_causal = attention_mask is None
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, attention_mask, is_causal=is_causal)
        return found.transpose(1, 2), None

    deaf.supports_segments = True  # it says so
    monkeypatch.setitem(prefix_sharing.ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", deaf)
    with pytest.raises(RuntimeError, match="size of tensor"):
        score_completions(model, make_shared_completions(), token_budget=1000)


def test_what_a_backward_pass_keeps_grows_with_the_length_not_its_square():
    def kept(length: int) -> int:
        sizes = []
        ids = torch.randint(3, 60, (1, 2 * length + 16))
        segments = [Segment(16 + length, 0, 0), Segment(length, 16, 0)]
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
            model(input_ids=ids, **segment_arguments(model, segments, "cpu"), use_cache=False)
        return sum(sizes)

    config = make_tiny_model().config
    config.max_position_embeddings = 8192
    model = type(make_tiny_model())(config)
    short, long = kept(1024), kept(2048)
    assert long < 2.05 * short
