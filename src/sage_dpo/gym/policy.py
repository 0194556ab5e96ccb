"""The gym's small policies: shapes, supervised training on solutions with misconceptions, bundled weights.

The code is Llama's with Qwen2's biases. Not Qwen2's own, because beside a model of that type transformers 5 replaces
any tokenizer by Qwen2's byte-level one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from sage_dpo.errors import ConfigError
from sage_dpo.gym.misconceptions import solve_with_misconceptions
from sage_dpo.gym.tokenizer import ASSISTANT, END, USER, build_tokenizer
from sage_dpo.gym.world import STANDARD, generate_problem, story_of

BATCH_SIZE = 64
_BATCHES_PER_CHUNK = 32
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class PolicySize:
    """Shape of a policy and how long it trains.

    Attributes:
        hidden, layers, heads: width, depth and attention heads; the feed-forward width is `8/3 * hidden`.
        steps: optimizer steps of 64 solutions.
        learning_rate: peak of the cosine schedule.
    """

    hidden: int
    layers: int
    heads: int
    steps: int
    learning_rate: float


SIZES: dict[str, PolicySize] = {
    "S": PolicySize(hidden=96, layers=3, heads=4, steps=2500, learning_rate=3e-3),
    "M": PolicySize(hidden=192, layers=5, heads=6, steps=2000, learning_rate=2e-3),
    "L": PolicySize(hidden=384, layers=6, heads=6, steps=4000, learning_rate=1e-3),
}
"""About 0.35 M, 2.3 M and 10.7 M parameters."""


def bundled_policy_path(name: str = "S") -> Path:
    """Return the folder of a policy that ships with the package: `S`, `M`, or `S-hard` of the hard track.

    Raises:
        ConfigError: no policy of that name is bundled.
    """
    path = Path(__file__).parent / "policies" / name
    if not (path / "model.safetensors").is_file():
        raise ConfigError(f"no bundled gym policy {name!r}; train one with `sage-dpo gym train`")
    return path


def build_policy(size: str, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """Return an untrained policy of the given size, its weights drawn from `seed`."""
    shape = _size(size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.hidden * 8 // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        attention_bias=True,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("o_proj.bias"):
            parameter.requires_grad_(False)  # stays zero: Qwen2 has biases on queries, keys and values only
    model.generation_config.update(
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        do_sample=True,
        max_new_tokens=96,
    )
    return model


def _size(size: str) -> PolicySize:
    if size not in SIZES:
        raise ConfigError(f"unknown gym policy size {size!r}, expected one of {', '.join(SIZES)}")
    return SIZES[size]


def train_policy(
    size: str,
    output_dir: Path,
    *,
    seed: int,
    track: str = STANDARD,
    steps: int | None = None,
    learning_rate: float | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Train a base policy on flawed solutions of the `sft` split and save it with its tokenizer.

    AdamW, cosine schedule after 5 % warm-up, loss on completion tokens only, no solution seen twice.

    Args:
        size: a key of `SIZES`.
        output_dir: receives model, tokenizer and generation config.
        seed: of weights, problems and misconceptions.
        track: a name of `gym.world.TRACKS`, the world it learns.
        steps, learning_rate: override the size's own.
        progress: show a progress bar.
    Returns:
        `parameters`, `steps`, `first_loss` and `last_loss` (each the mean over up to 20 steps, at most a
            quarter of the run; nats a token).
    """
    shape = _size(size)
    steps = shape.steps if steps is None else steps
    if steps < 1:
        raise ConfigError(f"steps is {steps}, expected at least 1; leave it out for the size's own {shape.steps}")
    tokenizer = build_tokenizer()
    model = build_policy(size, tokenizer, seed=seed)
    with tqdm(_batches(tokenizer, steps, seed, track), f"gym policy {size}", steps, disable=not progress) as batches:
        losses = _fit(model, batches, steps, learning_rate or shape.learning_rate)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    window = max(1, min(20, steps // 4))
    first, last = losses[:window], losses[-window:]
    return {
        "parameters": float(model.num_parameters()),
        "steps": float(steps),
        "first_loss": sum(first) / len(first),
        "last_loss": sum(last) / len(last),
    }


def _fit(model: LlamaForCausalLM, batches: tqdm[dict[str, Tensor]], steps: int, learning_rate: float) -> list[float]:
    """Take one optimizer step a batch; return the losses. The model is left in evaluation mode."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    losses = []
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        batches.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    model.eval()
    return losses


def _batches(tokenizer: PreTrainedTokenizerFast, steps: int, seed: int, track: str) -> Iterator[dict[str, Tensor]]:
    """Yield `steps` batches of similar lengths: sort within a chunk of 32 batches, then shuffle the batches."""
    rng = random.Random(f"batches/{seed}")
    index, left = 0, steps
    while left > 0:
        examples = [_example(tokenizer, index + i, seed, track) for i in range(BATCH_SIZE * _BATCHES_PER_CHUNK)]
        index += len(examples)
        examples.sort(key=lambda example: len(example[0]))
        batches = [examples[i : i + BATCH_SIZE] for i in range(0, len(examples), BATCH_SIZE)]
        rng.shuffle(batches)
        for batch in batches[:left]:
            yield _collate(batch, int(tokenizer.pad_token_id))
        left -= len(batches)


def _example(tokenizer: PreTrainedTokenizerFast, index: int, seed: int, track: str) -> tuple[list[int], int]:
    """Return token ids and the length of the prompt among them."""
    problem = generate_problem("sft", index, seed=seed, track=track)
    solution = solve_with_misconceptions(story_of(problem), random.Random(f"{seed}/solution/{index}"))
    prompt = f"{USER} {problem.problem} {ASSISTANT}"
    ids = tokenizer.encode(f"{prompt} {solution} {END}", add_special_tokens=False)
    return ids, len(prompt.split())


def _collate(examples: list[tuple[list[int], int]], pad_id: int) -> dict[str, Tensor]:
    width = max(len(ids) for ids, _ in examples)
    input_ids = torch.full((len(examples), width), pad_id)
    labels = torch.full((len(examples), width), _IGNORED)
    for row, (ids, prompt_length) in enumerate(examples):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, prompt_length : len(ids)] = torch.tensor(ids[prompt_length:])
    # Right padding under a causal mask needs no attention mask: no real token sees a pad.
    return {"input_ids": input_ids, "labels": labels}
