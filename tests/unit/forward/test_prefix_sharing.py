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
    Part,
    can_share_prompts,
    group_by_prompt,
    parts_of,
    pays,
    sharing_arguments,
)


@pytest.fixture
def flash(monkeypatch):
    attention = FlashAttention()
    attention.install(monkeypatch)
    return attention


@pytest.fixture(autouse=True)
def shares_short_prompts(monkeypatch):
    monkeypatch.setitem(prefix_sharing.LEAST_PER_PART, "cpu", 0)


def shared_length(completions) -> int:
    prompts = {c.prompt_ids for c in completions}
    again = len(completions) - len(prompts)  # a prompt's last token is run again for every further completion
    return sum(map(len, prompts)) + sum(len(c.completion_ids) for c in completions) + again


def test_groups_by_hand():
    # b's second sequence has 7 tokens, 4 of them the prompt's: it adds 4, and 6 + 4 = 10
    lengths, prompt_lengths = np.array([5, 6, 8, 7, 9]), np.array([3, 4, 3, 4, 3])
    group = lambda budget: [  # noqa: E731
        g.tolist() for g in group_by_prompt("abaca", lengths, prompt_lengths=prompt_lengths, token_budget=budget)
    ]
    assert group(1000) == [[0, 2, 4], [1], [3]]
    assert group(18) == [[0, 2, 4], [1], [3]]  # 5 + 6 + 7
    assert group(17) == [[0, 2], [1], [3], [4]]
    assert group(1) == [[0], [1], [2], [3], [4]]


def test_parts_by_hand():
    parts = parts_of("aab a".replace(" ", ""), np.array([5, 6, 4, 7]), prompt_lengths=np.array([3, 3, 2, 3]))
    assert parts == [Part(5, 0, 0), Part(4, 2, 0), Part(4, 0, 2), Part(5, 2, 0)]
    assert sum(part.length for part in parts) == 18


def test_what_pays_by_hand(monkeypatch):
    monkeypatch.setitem(prefix_sharing.LEAST_PER_PART, "cpu", 8)
    model = make_tiny_model()
    assert pays(model, [Part(90, 0, 0), Part(90, 20, 0)], "cpu")  # 20 of 200
    assert not pays(model, [Part(90, 0, 0), Part(91, 19, 0)], "cpu")
    assert not pays(model, [Part(20, 0, 0), Part(8, 15, 0)], "cpu")  # of half of the tokens, but 7.5 a part
    assert not pays(model, [Part(600, 0, 0), Part(100, 511, 0)], "cuda")
    assert pays(model, [Part(600, 0, 0), Part(100, 512, 0)], "cuda")
    assert pays(uses_flash_attention(model), [Part(5, 0, 0), Part(5, 2, 0)], "cuda")  # one call for all parts
    assert not pays(uses_flash_attention(model), [Part(5, 0, 0), Part(6, 0, 1)], "cuda")


def test_arguments_by_hand(flash):
    parts = [Part(5, 0, 0), Part(2, 3, 0), Part(3, 0, 2)]
    arguments = sharing_arguments(uses_flash_attention(make_tiny_model()), parts, "cpu")
    assert arguments["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 0, 1, 2]]
    assert arguments["cu_seq_lens_q"].tolist() == [0, 5, 7, 10]
    assert arguments["cu_seq_lens_k"].tolist() == [0, 5, 10, 13]
    assert (arguments["max_length_q"], arguments["max_length_k"]) == (5, 5)
    assert arguments["key_places"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8, 9]
    assert sharing_arguments(make_tiny_model(), parts, "cpu")["position_ids"].equal(arguments["position_ids"])


@pytest.mark.parametrize("masked", [3, 512])
@pytest.mark.parametrize("token_budget", [1, 40, 100_000])
def test_scores_are_those_of_single_sequences(token_budget, masked, monkeypatch):
    monkeypatch.setattr(prefix_sharing, "_MASKED", masked)
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
    assert can_share_prompts(model) is can_share
    if can_share:
        assert tokens_run(completions, 10_000, model) == [shared_length(completions)]
        found = score_completions(model, completions, token_budget=10_000)
        np.testing.assert_allclose(found.logps, expected, atol=1e-3)


def test_prompts_are_run_apart_where_that_saves_little():
    completions = [TokenizedCompletion((5, 6, 7), tuple(range(8, 50))), TokenizedCompletion((5, 6, 7), (9, 8, 7))]
    assert tokens_run(completions, token_budget=1000) == [2 * 45]  # padded; 2 of 51 would be saved
    more = [TokenizedCompletion((5, 6, 7), (9, last)) for last in (8, 9, 10)]
    assert tokens_run([*completions, *more], token_budget=1000) == [45 + 4 + 3 * 3]  # 8 of 66


def test_attention_without_parts_is_what_it_was():
    model = make_tiny_model()
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        score_completions(model, make_shared_completions(), token_budget=1000)
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=0, atol=0)


def test_which_models_share_prompts():
    assert can_share_prompts(make_tiny_model())
    assert can_share_prompts(get_peft_model(make_tiny_model(), LoraConfig(target_modules=["q_proj"])))
    prompt_tuning = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    assert not can_share_prompts(get_peft_model(make_tiny_model(), prompt_tuning))
    assert not can_share_prompts(torch.nn.Linear(2, 2))
    for attention in ("eager", "flex_attention"):
        model = make_tiny_model()
        model.config._attn_implementation = attention
        assert not can_share_prompts(model), attention
    compiled = make_tiny_model()
    compiled.model.layers[0].compile()
    assert not can_share_prompts(compiled)
    assert not can_share_prompts(torch.compile(make_tiny_model()))


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
    assert not can_share_prompts(model)
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


def test_attention_that_does_not_listen_fails_instead_of_seeing_everything(monkeypatch):
    model = make_tiny_model()

    def deaf(module, query, key, value, attention_mask, **_):
        is_causal = attention_mask is None
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, attention_mask, is_causal=is_causal)
        return found.transpose(1, 2), None

    deaf.knows_parts = True  # it says so
    monkeypatch.setitem(prefix_sharing.ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", deaf)
    with pytest.raises(RuntimeError, match="size of tensor"):
        score_completions(model, make_shared_completions(), token_budget=1000)


def test_what_a_backward_pass_keeps_grows_with_the_length_not_its_square():
    def kept(length: int) -> int:
        sizes = []
        ids = torch.randint(3, 60, (1, 2 * length + 16))
        parts = [Part(16 + length, 0, 0), Part(length, 16, 0)]
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
            model(input_ids=ids, **sharing_arguments(model, parts, "cpu"), use_cache=False)
        return sum(sizes)

    config = make_tiny_model().config
    config.max_position_embeddings = 8192
    model = type(make_tiny_model())(config)
    short, long = kept(1024), kept(2048)
    assert long < 2.05 * short
