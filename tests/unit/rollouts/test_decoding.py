"""Continuous batching: slots are refilled, stragglers wait, and no row sees another's keys and values."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from tests.support.tiny import make_tiny_model
from transformers import PreTrainedModel

from sage_dpo.rollouts import RolloutPrompt, SamplingParams
from sage_dpo.rollouts.decoding import Decoder
from sage_dpo.rollouts.rows import Row, Rules
from sage_dpo.rollouts.sampling import TokenSampler, completion_uniforms
from sage_dpo.rollouts.whole_batches import generate_batches


def make_rules(settings: SamplingParams, stop_ids: tuple[int, ...] = (2,)) -> Rules:
    def uniforms(row: Row) -> Any:
        return completion_uniforms(0, 0, row.prompt.problem_id, row.sample, settings.max_new_tokens)

    return Rules(TokenSampler(settings), uniforms, settings.max_new_tokens, stop_ids, pad_id=0)


def make_rows(prompts: int, samples: int, *, longest: int = 14, vocabulary: int = 32, shared: int = 0) -> list[Row]:
    rng = random.Random(0)
    system = tuple(rng.randrange(3, vocabulary) for _ in range(shared))
    ids = [system + tuple(rng.randrange(3, vocabulary) for _ in range(rng.randint(1, longest))) for _ in range(prompts)]
    return [
        Row(prompt * samples + sample, sample, RolloutPrompt(f"p{prompt}", ids[prompt]))
        for prompt in range(prompts)
        for sample in range(samples)
    ]


def one_by_one(model: PreTrainedModel, row: Row, rules: Rules) -> list[int]:
    """Sample a row by whole forward passes, without any cache."""
    copy = Row(row.index, row.sample, row.prompt)
    uniforms = rules.uniforms(copy)
    while not copy.is_done:
        logits = model(torch.tensor([copy.ids]), use_cache=False).logits[:, -1]
        rules.append(copy, int(rules.sampler(logits, torch.tensor(uniforms[[len(copy.tokens)]]))))
    return copy.tokens


def test_freed_slots_are_refilled_and_equal_prompts_are_prefilled_once() -> None:
    model = make_tiny_model()
    rules = make_rules(SamplingParams(max_new_tokens=30), stop_ids=(4, 20, 21, 22))
    batches: list[tuple[int, int]] = []
    handle = model.model.register_forward_pre_hook(
        lambda _module, _args, arguments: batches.append(tuple(arguments["input_ids"].shape)), with_kwargs=True
    )
    rows = make_rows(20, 8, vocabulary=64)
    with torch.inference_mode():
        assert sum(len(done) for done in Decoder(model, rules, slots=32).run(rows)) == 160
    handle.remove()
    prefills = [shape for shape in batches if shape[1] > 1]
    steps = [rows for rows, width in batches if width == 1]
    assert prefills[0][0] == 4  # 32 slots, 8 samples a prompt
    assert sum(count for count, _ in prefills) < 60  # of 160 rows; a prompt taken up in parts is run for each
    assert min(steps[: len(steps) // 2]) > 28  # 7/8 of the slots run while prompts wait
    # A step with n rows samples n tokens, and a prefill the first of each row.
    assert sum(steps) == sum(len(row.tokens) - 1 for row in rows)


def test_what_all_prompts_begin_with_is_run_once() -> None:
    model = make_tiny_model()
    rules = make_rules(SamplingParams(max_new_tokens=5))
    widths: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda _module, _args, arguments: widths.append(arguments["input_ids"].shape[1]), with_kwargs=True
    )
    rows = make_rows(20, 2, vocabulary=64, longest=6, shared=30)
    with torch.inference_mode():
        assert sum(len(done) for done in Decoder(model, rules, slots=8).run(rows)) == 40
    handle.remove()
    assert widths[0] >= 30
    assert max(widths[1:]) <= 6


def test_stragglers_wait_for_their_like_and_are_finished() -> None:
    """Every row ends after 6 tokens, but for three; the first of them is alone when the columns run out."""
    model, long = make_tiny_model(), (0, 120, 200)

    def uniforms(row: Row) -> np.ndarray:
        ends = np.zeros(80, dtype=np.float32)
        ends[5:] = 0.0 if row.index in long else 1.0
        return ends

    def sampler(logits: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return torch.where(ends > 0, 2, logits[:, 3:].argmax(-1) + 3)

    rules = replace(make_rules(SamplingParams(max_new_tokens=80)), uniforms=uniforms, sampler=sampler)  # type: ignore[arg-type]
    rows = make_rows(240, 1, vocabulary=64, longest=3)
    decoder = Decoder(model, rules, slots=16)
    with torch.inference_mode():
        finished = [row.index for done in decoder.run(rows) for row in done]
        assert sorted(finished) == list(range(240))
        assert finished.index(0) > 200  # it waited, though it began first
        assert {row.index for row in rows if len(row.tokens) == 80} == set(long)
        for index in long:
            assert rows[index].tokens == one_by_one(model, rows[index], rules)


def test_whole_batches_do_not_depend_on_their_size() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tuned = get_peft_model(make_tiny_model(), PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    tuned.eval()
    rules = make_rules(SamplingParams(max_new_tokens=12), stop_ids=(4, 20, 21))
    together, alone = make_rows(6, 2, vocabulary=64), make_rows(6, 2, vocabulary=64)
    with torch.inference_mode():
        batches = list(generate_batches(tuned, together, rules, batch_size=5, pads=True))
        list(generate_batches(tuned, alone, rules, batch_size=1, pads=True))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert all(row.is_done for row in together)
    assert [row.tokens for row in together] == [row.tokens for row in alone]


def test_whole_batches_wait_for_no_other_process_while_one_trains_under_zero_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` would take as many steps as the process with the longest row, and there is none to ask."""
    monkeypatch.setattr("transformers.generation.utils.is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    rules, rows = make_rules(SamplingParams(max_new_tokens=3), stop_ids=(4,)), make_rows(2, 1, vocabulary=64)
    with torch.inference_mode():
        list(generate_batches(make_tiny_model(), rows, rules, batch_size=2, pads=True))
    assert all(row.is_done for row in rows)
