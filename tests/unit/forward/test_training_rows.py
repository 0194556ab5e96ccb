"""Rows run in groups of similar length, or end to end, give what the whole padded batch gives."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.support.flash import FlashAttention, uses_flash_attention
from tests.support.tiny import make_tiny_model
from transformers.integrations import activate_neftune
from trl.trainer.utils import add_fused_lm_head

from sage_dpo.forward import prefix_sharing, training_rows
from sage_dpo.forward.training_rows import remove_padding

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")


def make_batch(lengths=(7, 3, 12, 3, 5), prompt_length=1, prompts=None):
    """Rows of these lengths; `prompts` names the prompt of each row, by default a different one."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, 30, (length,), generator=generator)
        if prompts is not None:
            ids[row, :prompt_length] = ids[prompts.index(prompts[row]), :prompt_length]
        labels[row, prompt_length:length] = ids[row, prompt_length:length]
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "use_cache": False}


def make_models():
    plain = make_tiny_model()
    grouped = copy.deepcopy(plain)
    for model in (plain, grouped):
        add_fused_lm_head(model, outputs=OUTPUTS)
    remove_padding(grouped, allows_groups=True)
    return plain, grouped


@pytest.mark.parametrize("limit", [0, 4, 1000])
def test_values_and_gradients_are_those_of_the_padded_batch(limit, monkeypatch):
    monkeypatch.setitem(training_rows.PADDING_LIMIT, "cpu", limit)
    check_values_and_gradients(*make_models())


def test_values_and_gradients_of_packed_rows_are_those_of_the_padded_batch(monkeypatch):
    flash = FlashAttention()
    flash.install(monkeypatch)
    plain, packed = make_models()
    check_values_and_gradients(plain, uses_flash_attention(packed))
    assert flash.bounds == flash.key_bounds == 2 * [[0, 7, 10, 22, 25, 30]]  # one pass through two layers


@pytest.fixture(autouse=True)
def shares_short_prompts(monkeypatch):
    monkeypatch.setitem(prefix_sharing.MIN_SAVED_PER_SEGMENT, "cpu", 0)


SHARED = {"lengths": (9, 12, 7, 14, 6, 8), "prompt_length": 5, "prompts": "abcabb"}


@pytest.mark.parametrize("checkpointing", [None, False, True])  # off, not reentrant, reentrant
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_values_and_gradients_of_shared_prompts_are_those_of_the_padded_batch(attention, checkpointing, monkeypatch):
    FlashAttention().install(monkeypatch)
    plain, shared = make_models()
    shared.config._attn_implementation = attention
    if checkpointing is not None:
        shared.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        shared.enable_input_require_grads()
        shared.train()
    batch = make_batch(**SHARED)
    # row 4 continues row 1, row 3 row 0, row 5 row 1: each runs all but the first four tokens
    assert count_rows(shared, batch) == [(1, 56 - 3 * 4)]
    check_values_and_gradients(plain, shared, batch)


@pytest.mark.parametrize("layout", ["groups", "end to end", "shared prompts"])
def test_embedding_noise_is_as_strong_as_in_the_padded_batch(layout, monkeypatch):
    """NEFTune draws from +- alpha / sqrt(tokens of a row x embedding size)."""
    batch = make_batch(**SHARED) if layout == "shared prompts" else make_batch(lengths=(40, 20, 30, 10))
    if layout == "end to end":
        FlashAttention().install(monkeypatch)
    monkeypatch.setitem(training_rows.PADDING_LIMIT, "cpu", 0)
    _, model = make_models()
    if layout == "end to end":
        uses_flash_attention(model)
    drawn = []

    def after_noise(module, inputs, output):
        drawn.append((output - torch.nn.functional.embedding(inputs[0], module.weight)).detach())

    handle = activate_neftune(model.train(), 3.0)
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(after_noise)
    model(**batch, fused_lm_head=True)
    noise = torch.cat([values.flatten() for values in drawn])
    rows, padded = batch["input_ids"].shape
    bound = 3.0 / (padded * embeddings.embedding_dim) ** 0.5
    assert sum(values[..., 0].numel() for values in drawn) < rows * padded
    assert noise.abs().max().item() == pytest.approx(bound, rel=5e-3)
    assert noise.std().item() == pytest.approx(bound / 3**0.5, rel=5e-2)
    assert embeddings.neftune_noise_alpha == 3.0
    handle.remove()


@pytest.mark.parametrize("change", ["one token", "no labels", "twice the same", "prefix of another"])
def test_odd_rows_share_prompts_too(change):
    batch = make_batch(**SHARED)
    if change == "one token":  # of a prompt
        batch = make_batch(**SHARED | {"prompt_length": 1})
    elif change == "no labels":
        batch["labels"][1] = -100
    elif change == "twice the same":
        batch = make_batch(**SHARED | {"lengths": (9,) * 6})
        for name in ("input_ids", "labels"):
            batch[name][3] = batch[name][0]
    else:
        batch["labels"][0, 5] = -100  # one more token of its prompt
    check_values_and_gradients(*make_models(), batch)


def test_activated_lora_is_left_alone():
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[5, 6])
    model = get_peft_model(make_tiny_model(), config)
    add_fused_lm_head(model.get_base_model(), outputs=OUTPUTS)
    remove_padding(model, allows_groups=True)
    assert count_rows(model, make_batch()) == [(5, 12)]


def check_values_and_gradients(plain, grouped, batch=None):
    is_shared = batch is not None
    batch = batch or make_batch()
    results = [model(**batch, fused_lm_head=True) for model in (plain, grouped)]
    # a shared prompt's own tokens are run for one row only, and nothing reads them
    is_read = results[0].label_mask.bool() | (not is_shared)
    for name in (*OUTPUTS, "label_mask"):
        expected, found = (result[name] for result in results)
        assert found.shape == expected.shape
        torch.testing.assert_close(found[is_read], expected[is_read], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[1].label_mask, results[0].label_mask)
    weights = torch.linspace(-1, 1, results[0].log_probs.numel()).view_as(results[0].log_probs)
    for result in results:
        (result.log_probs * weights).sum().backward()
    for expected, found in zip(plain.parameters(), grouped.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-5)


def count_rows(model, batch):
    rows = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape))
    model(**batch, fused_lm_head=True)
    handle.remove()
    return [tuple(shape) for shape in rows]


def test_groups_are_padded_to_their_own_longest(monkeypatch):
    monkeypatch.setitem(training_rows.PADDING_LIMIT, "cpu", 2)
    _, grouped = make_models()
    assert count_rows(grouped, make_batch()) == [(1, 12), (2, 7), (2, 3)]


def test_without_groups_rows_run_packed_or_padded(monkeypatch):
    monkeypatch.setitem(training_rows.PADDING_LIMIT, "cpu", 0)
    FlashAttention().install(monkeypatch)
    model = make_tiny_model()
    add_fused_lm_head(model, outputs=OUTPUTS)
    remove_padding(model, allows_groups=False)
    assert count_rows(model, make_batch()) == [(1, 30)]
    model.config._attn_implementation = "eager"
    assert count_rows(model, make_batch()) == [(5, 12)]
    assert count_rows(uses_flash_attention(model), make_batch()) == [(1, 30)]


def test_compiled_layers_share_no_prompts(monkeypatch):
    monkeypatch.setitem(training_rows.PADDING_LIMIT, "cpu", 1000)
    _, grouped = make_models()
    layer = grouped.model.layers[0]
    layer.compile(backend="eager")
    assert count_rows(grouped, make_batch(**SHARED)) == [(6, 14)]


@pytest.mark.parametrize("change", [{"attention_mask": None}, {"output_attentions": False}])
def test_other_inputs_pass_through(change, monkeypatch):
    monkeypatch.setitem(training_rows.PADDING_LIMIT, "cpu", 0)
    _, grouped = make_models()
    assert count_rows(grouped, make_batch() | change) == [(5, 12)]


def test_padding_on_the_left_passes_through(monkeypatch):
    monkeypatch.setitem(training_rows.PADDING_LIMIT, "cpu", 0)
    _, grouped = make_models()
    batch = make_batch()
    assert count_rows(grouped, batch | {"attention_mask": batch["attention_mask"].flip(1)}) == [(5, 12)]


def test_a_call_without_the_fused_head_is_the_models_own():
    plain, grouped = make_models()
    batch = make_batch()
    del batch["labels"]
    torch.testing.assert_close(grouped(**batch).logits, plain(**batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])  # with it, PEFT passes every argument by name
def test_an_adapters_base_model_is_patched(task_type, monkeypatch):
    monkeypatch.setitem(training_rows.PADDING_LIMIT, "cpu", 0)
    model = get_peft_model(make_tiny_model(), LoraConfig(target_modules=["q_proj"], task_type=task_type))
    add_fused_lm_head(model.get_base_model(), outputs=OUTPUTS)
    remove_padding(model, allows_groups=True)
    assert len(count_rows(model, make_batch())) == 4


def test_a_deep_copy_runs_its_own_weights():
    _, grouped = make_models()
    copied = copy.deepcopy(grouped)
    batch = make_batch()
    expected = grouped(**batch, fused_lm_head=True).log_probs
    with torch.no_grad():
        for parameter in grouped.parameters():
            parameter.zero_()
    torch.testing.assert_close(copied(**batch, fused_lm_head=True).log_probs, expected)
