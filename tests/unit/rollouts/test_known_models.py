"""Which models are decoded in slots, which are padded, and that what each then samples from is what it says alone."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from peft import AdaptionPromptConfig, LoraConfig, PrefixTuningConfig, get_peft_model
from tests.support.small_models import SHARED_KEYS, make_small
from torch import Tensor

from sage_dpo.rollouts import RolloutPrompt, SamplingParams
from sage_dpo.rollouts.decoding import Decoder
from sage_dpo.rollouts.known_models import (
    PADDED_MODELS,
    POSITION_TABLES,
    SLOT_MODELS,
    can_be_padded,
    can_use_slots,
    most_positions,
)
from sage_dpo.rollouts.rows import Row, Rules
from sage_dpo.rollouts.sampling import TokenSampler, completion_uniforms
from sage_dpo.rollouts.transformers import evaluation_mode
from sage_dpo.rollouts.whole_batches import generate_batches

LIMIT = 38  # beyond the columns that are set aside at first


class Recorder:
    """A sampler that keeps the logits, by the number that draws from them, which no two tokens share."""

    def __init__(self) -> None:
        self._sampler = TokenSampler(SamplingParams())
        self.logits: dict[float, Tensor] = {}

    def __call__(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        self.logits.update(zip(uniforms.tolist(), logits.float().clone(), strict=True))
        return self._sampler(logits, uniforms)


def make_rules() -> tuple[Rules, Recorder]:
    def uniforms(row: Row) -> Any:
        return completion_uniforms(0, 0, row.prompt.problem_id, row.sample, LIMIT)

    recorder: Any = Recorder()
    return Rules(recorder, uniforms, LIMIT, stop_ids=(2,), pad_id=0), recorder


def make_rows(lengths: Sequence[int], shared: int = 0) -> list[Row]:
    """Return a row for each length, the longest first, after `shared` equal tokens."""
    rng = random.Random(0)
    system = tuple(rng.randrange(3, 32) for _ in range(shared))
    ids = [system + tuple(rng.randrange(3, 32) for _ in range(length)) for length in lengths]
    return sorted((Row(n, 0, RolloutPrompt(f"p{n}", prompt)) for n, prompt in enumerate(ids)), key=len, reverse=True)


def assert_alone(model: Any, batches: Iterator[list[Row]], rows: list[Row], rules: Rules, recorder: Recorder) -> None:
    """Every row ends, and every token was drawn from the logits of one forward pass over its row, without a cache."""
    assert sum(map(len, batches)) == len(rows)
    for row in rows:
        assert row.is_done
        logits = model(torch.tensor([row.ids]), use_cache=False).logits[0, len(row.prompt.prompt_ids) - 1 : -1]
        drawn = torch.stack([recorder.logits[number] for number in rules.uniforms(row)[: len(row.tokens)].tolist()])
        torch.testing.assert_close(drawn, logits.float(), rtol=0, atol=1e-3 * float(logits.std()))


def assert_ends_with_its_table(model: Any) -> None:
    """A model with a table of positions, but no other, fails beyond its end."""
    has_table = model.config.model_type in POSITION_TABLES
    assert most_positions(model) == (128 if has_table else math.inf)
    with torch.inference_mode(), pytest.raises((IndexError, RuntimeError)) if has_table else contextlib.nullcontext():
        assert model(torch.full((1, 140), 5)).logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(SLOT_MODELS))
def test_a_row_in_slots_has_the_logits_that_it_has_alone(model_type: str) -> None:
    """Over moves of the cache, windows shorter than the prompts, freed slots, and what all prompts begin with."""
    model = make_small(model_type)
    assert can_use_slots(model, longest=50)
    assert_ends_with_its_table(model)
    for shared in (0, 9):
        (rules, recorder), rows = make_rules(), make_rows((3, 14, 9, 1, 12), shared)
        with torch.inference_mode():
            assert_alone(model, Decoder(model, rules, slots=2).run(rows), rows, rules, recorder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        *(pytest.param(name, {}, id=name) for name in sorted(PADDED_MODELS - SLOT_MODELS)),
        pytest.param("gemma4_text", SHARED_KEYS, id="gemma4_text that shares keys"),
    ],
)
def test_a_padded_row_has_the_logits_that_it_has_alone(model_type: str, sizes: dict[str, Any]) -> None:
    model = make_small(model_type, **sizes)
    assert not can_use_slots(model, longest=50)
    assert can_be_padded(model, longest=50)
    assert_ends_with_its_table(model)
    (rules, recorder), rows = make_rules(), make_rows((3, 14, 9))
    with evaluation_mode(model), torch.inference_mode():
        batches = generate_batches(model, rows, rules, batch_size=3, pads=True)
        assert_alone(model, batches, rows, rules, recorder)


@pytest.mark.parametrize("model_type", ["bart", "minimax"])
def test_other_models_run_rows_of_equal_lengths_together(model_type: str) -> None:
    """They count positions along the columns, padding included, or carry it in their states."""
    model = make_small(model_type)
    assert not can_use_slots(model, longest=50)
    assert not can_be_padded(model, longest=50)
    (rules, recorder), rows = make_rules(), make_rows((3, 9, 3, 14, 9, 9, 9))
    with evaluation_mode(model), torch.inference_mode():
        batches = list(generate_batches(model, rows, rules, batch_size=3, pads=False))
        assert [[len(row.prompt.prompt_ids) for row in batch] for batch in batches] == [[14], [9] * 3, [9], [3] * 2]
        assert_alone(model, iter(batches), rows, rules, recorder)


ADAPTERS = {
    "LoRA": (LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"), True),
    "activated LoRA": (LoraConfig(r=2, target_modules="all-linear", alora_invocation_tokens=[7, 8]), False),
    "prefix": (PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), False),
    "adaption prompt": (AdaptionPromptConfig(adapter_len=2, adapter_layers=1, task_type="CAUSAL_LM"), False),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_that_depend_on_the_row_are_not_decoded_in_slots(name: str) -> None:
    config, is_decoded_in_slots = ADAPTERS[name]
    with torch.random.fork_rng(devices=[]):
        adapted = get_peft_model(make_small("llama"), config)
    assert can_use_slots(adapted, longest=50) is is_decoded_in_slots
    assert can_be_padded(adapted, longest=50)


ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [9.0] * 4,
        "original_max_position_embeddings": 32,
    },
}


@pytest.mark.parametrize(("name", "changes_at"), [("default", None), ("yarn", None), ("dynamic", 64), ("longrope", 32)])
def test_slots_end_where_the_longest_row_changes_the_positions_of_all(name: str, changes_at: int | None) -> None:
    model = make_small("llama", max_position_embeddings=64, rope_parameters={"rope_theta": 10_000.0, **ROPES[name]})
    for may_share in (can_use_slots, can_be_padded):
        assert may_share(model, changes_at or 1000)
        assert may_share(model, (changes_at or 1000) + 1) is (changes_at is None)
