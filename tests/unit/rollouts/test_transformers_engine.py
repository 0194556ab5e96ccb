"""What is particular to sampling in process: equality with plain `generate`, batching, and the model left as it was."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.support.small_models import make_small
from tests.support.tiny import make_tiny_model, make_tiny_tokenizer
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForSeq2SeqLM, BartConfig, GenerationConfig

from sage_dpo.errors import ConfigError, DataError, NumericalError
from sage_dpo.records import FinishReason, Problem
from sage_dpo.rollouts import RolloutPrompt, SamplingParams, build_prompts
from sage_dpo.rollouts.transformers import TransformersEngine


@pytest.fixture(scope="module")
def prompts(tiny_tokenizer: Any) -> list[RolloutPrompt]:
    rng = random.Random(0)
    texts = [" ".join(str(rng.randrange(30)) for _ in range(rng.randrange(1, 12))) for _ in range(40)]
    return build_prompts([Problem(f"p{i}", text, "1") for i, text in enumerate(texts)], tiny_tokenizer)


def plain_greedy(model: Any, prompt: RolloutPrompt, tokens: int) -> tuple[int, ...]:
    ids = torch.tensor([prompt.prompt_ids])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
    return tuple(out[0, ids.shape[1] :].tolist())


@pytest.mark.slow
def test_greedy_equals_plain_generate_row_by_row(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    """Through padding, shared prefill, freed and refilled slots, and stragglers."""
    model = make_tiny_model(3)
    greedy = SamplingParams(temperature=0.0, max_new_tokens=40)
    completions = TransformersEngine(model, tiny_tokenizer, batch_size=16).sample(prompts, settings=greedy, seed=0)
    assert [c.token_ids for c in completions] == [plain_greedy(model, prompt, 40) for prompt in prompts]


def activated_lora() -> Any:
    config = LoraConfig(
        r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, alora_invocation_tokens=[7, 8]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_peft_model(make_small("llama"), config)


def long_rope() -> Any:
    factors = {"short_factor": [1.0] * 4, "long_factor": [9.0] * 4, "original_max_position_embeddings": 24}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors}
    return make_small("phi3", rope_parameters=rope, original_max_position_embeddings=24)


MODELS = {
    "positions along the columns": lambda: make_small("bart"),
    "distances along the columns": lambda: make_small("mpt"),
    "windows along the columns": lambda: make_small("gpt_neo"),
    "another cache": lambda: make_small("openai-gpt"),
    "recurrent": lambda: make_small("mamba"),
    "an adapter that begins in the row": activated_lora,
    "rotary embeddings of the longest row": long_rope,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_greedy_equals_plain_generate_whatever_the_model(name: str, tiny_tokenizer: Any) -> None:
    """Prompts that begin alike, of unequal lengths, some behind the tokens that start the adapter."""
    model, rng = MODELS[name](), random.Random(0)
    model.generation_config = GenerationConfig(eos_token_id=[2, tiny_tokenizer.eos_token_id], pad_token_id=0)
    system = [rng.randrange(9, 32) for _ in range(9)]
    prompts = [
        RolloutPrompt(f"p{n}", (*system, *(rng.randrange(9, 32) for _ in range(length)), 7, 8))
        for n, length in enumerate((2, 6, 2, 1, 9))
    ]
    greedy = SamplingParams(temperature=0.0, max_new_tokens=20)
    completions = TransformersEngine(model, tiny_tokenizer, batch_size=3).sample(prompts, settings=greedy, seed=0)
    assert [c.token_ids for c in completions] == [plain_greedy(model, prompt, 20) for prompt in prompts]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_batch_size_does_not_change_a_completion(
    prompts: list[RolloutPrompt], tiny_model: Any, tiny_tokenizer: Any, temperature: float
) -> None:
    settings = SamplingParams(samples=4, temperature=temperature, top_p=0.95, top_k=30, max_new_tokens=60)
    results = [
        TransformersEngine(tiny_model, tiny_tokenizer, batch_size=size).sample(prompts, settings=settings, seed=5)
        for size in (160, 33, 16)
    ]
    assert results[0] == results[1] == results[2]
    assert {completion.finish_reason for completion in results[0]} == set(FinishReason)


def test_longer_limit_continues_the_same_completions(
    prompts: list[RolloutPrompt], tiny_model: Any, tiny_tokenizer: Any
) -> None:
    engine = TransformersEngine(tiny_model, tiny_tokenizer)
    short, long = (
        engine.sample(prompts, settings=SamplingParams(samples=2, max_new_tokens=limit), seed=0) for limit in (7, 30)
    )
    assert [c.token_ids for c in short] == [c.token_ids[:7] for c in long]


def test_generation_config_of_the_model_does_not_leak(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    model = make_tiny_model()
    settings = SamplingParams(samples=2, max_new_tokens=15)
    plain = TransformersEngine(model, tiny_tokenizer).sample(prompts[:8], settings=settings, seed=0)
    odd = GenerationConfig(
        do_sample=True, temperature=0.01, top_k=1, top_p=0.1, repetition_penalty=5.0, min_new_tokens=15, num_beams=2,
        suppress_tokens=list(range(30)), no_repeat_ngram_size=1, eos_token_id=4, max_new_tokens=3,
    )  # fmt: skip
    model.generation_config = odd
    assert TransformersEngine(model, tiny_tokenizer).sample(prompts[:8], settings=settings, seed=0) == plain
    assert model.generation_config is odd


def test_end_tokens_of_the_generation_config_stop_too(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    model = make_tiny_model()
    model.generation_config.eos_token_id = [4, 20, 21, 22]
    completions = TransformersEngine(model, tiny_tokenizer).sample(
        prompts, settings=SamplingParams(samples=2, max_new_tokens=30), seed=0
    )
    stopped = [c for c in completions if c.finish_reason is FinishReason.STOP]
    assert {c.token_ids[-1] for c in stopped} == {4, 20, 21, 22}
    assert not any({4, 20, 21, 22} & set(c.token_ids[:-1]) for c in completions)


def test_training_state_is_restored(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    model = make_tiny_model()
    settings = SamplingParams(samples=2, max_new_tokens=10)
    expected = TransformersEngine(model, tiny_tokenizer).sample(prompts[:4], settings=settings, seed=0)
    model.train()
    model.model.layers[0].eval()  # a frozen part
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    model.config.attention_dropout = 0.5
    before = [module.training for module in model.modules()]
    assert TransformersEngine(model, tiny_tokenizer).sample(prompts[:4], settings=settings, seed=0) == expected
    assert [module.training for module in model.modules()] == before
    assert model.is_gradient_checkpointing
    assert model.config.use_cache is False


def test_model_can_be_trained_after_sampling(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    model = make_tiny_model().train()
    TransformersEngine(model, tiny_tokenizer).sample(prompts[:4], settings=SamplingParams(max_new_tokens=5), seed=0)
    ids = torch.tensor([prompts[0].prompt_ids])
    model(ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_wrapped_model_is_unwrapped(prompts: list[RolloutPrompt], tiny_tokenizer: Any, tmp_path: Any) -> None:
    model = make_tiny_model()
    settings = SamplingParams(samples=2, max_new_tokens=10)
    expected = TransformersEngine(model, tiny_tokenizer).sample(prompts[:4], settings=settings, seed=0)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        assert TransformersEngine(wrapped, tiny_tokenizer).sample(prompts[:4], settings=settings, seed=0) == expected
    finally:
        torch.distributed.destroy_process_group()


def test_nan_weights_are_an_error(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    model = make_tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    for temperature in (0.0, 1.0):
        with pytest.raises(NumericalError, match="NaN logits"):
            TransformersEngine(model, tiny_tokenizer).sample(
                prompts[:2], settings=SamplingParams(temperature=temperature, max_new_tokens=3), seed=0
            )


def test_end_at_once_is_an_empty_completion(prompts: list[RolloutPrompt], tiny_tokenizer: Any) -> None:
    model = make_tiny_model()
    model.generation_config.eos_token_id = list(range(64))
    completions = TransformersEngine(model, tiny_tokenizer).sample(
        prompts[:1], settings=SamplingParams(samples=200, max_new_tokens=3), seed=0
    )
    empty = [c for c in completions if c.token_ids == (4,)]
    assert empty
    assert all(c.text == "" and c.finish_reason is FinishReason.STOP for c in empty)


def test_prompt_of_one_token_and_missing_pad_token_work(tiny_model: Any) -> None:
    tokenizer = make_tiny_tokenizer(chat_template=None)
    tokenizer.pad_token = None
    prompts = build_prompts([Problem("a", "7", "1"), Problem("b", "1 2 3", "1")], tokenizer)
    completions = TransformersEngine(tiny_model, tokenizer).sample(
        prompts, settings=SamplingParams(samples=3, max_new_tokens=9), seed=0
    )
    assert len(completions) == 6


def test_rows_longer_than_a_table_of_positions_are_refused(tiny_tokenizer: Any) -> None:
    engine = TransformersEngine(make_small("gpt2"), tiny_tokenizer)  # 128 positions
    prompts = [RolloutPrompt("short", (5,)), RolloutPrompt("long", (5,) * 100)]
    for most, is_refused in ((28, False), (29, True)):
        settings = SamplingParams(max_new_tokens=most)
        with (
            pytest.raises(DataError, match="'long': the prompt has 100 tokens and its completion up to 29")
            if is_refused
            else contextlib.nullcontext()
        ):
            assert len(engine.sample(prompts, settings=settings, seed=0)) == 2


def test_unusable_arguments_are_refused(tiny_model: Any) -> None:
    tokenizer = make_tiny_tokenizer()
    with pytest.raises(ConfigError, match="batch_size is 0"):
        TransformersEngine(tiny_model, tokenizer, batch_size=0)
    tokenizer.eos_token = None
    model = make_tiny_model()
    model.generation_config.eos_token_id = None
    with pytest.raises(ConfigError, match="could never end"):
        TransformersEngine(model, tokenizer)
    config = BartConfig(vocab_size=8, d_model=16, encoder_layers=1, decoder_layers=1)
    sequence_to_sequence = AutoModelForSeq2SeqLM.from_config(config)
    with pytest.raises(ConfigError, match=r"encoder-decoder \(bart\)"):
        TransformersEngine(sequence_to_sequence, make_tiny_tokenizer())
