"""Completions sampled per second: `TransformersEngine` against plain `model.generate`, batch by batch in file order.

Both sample K = 8 completions of the same gym problems from the bundled policy S, with temperature 1, the same batch
size and the same token limit. The peer takes batch size / K prompts at a time, pads them on the left, and calls
`generate` with `num_return_sequences=K`; a batch lasts as long as its longest row.

- *mixed lengths*: the training problems, 1 to 6 steps.
- *skewed lengths*: nine of ten problems have 1 step, one has 7 or 8.

Before any time is taken, greedy completions of both must be equal for 98 % of the problems (batched kernels round by
the shape of the batch), and their mean lengths at temperature 1 within 5 % of each other. Tokens are those up to the
end-of-sequence token, so idle rows count for nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks import harness
from benchmarks.harness import Claim
from sage_dpo.gym.policy import bundled_policy_path
from sage_dpo.gym.world import StoryShape, generate_problems
from sage_dpo.records import Problem
from sage_dpo.rollouts import RolloutPrompt, SamplingParams, build_prompts
from sage_dpo.rollouts.transformers import TransformersEngine

SAMPLES = 8
BATCH_SIZE = 256
MAX_NEW_TOKENS = 96
MIN_EQUAL = 0.98
MAX_LENGTH_DIFFERENCE = 0.05


@dataclass(frozen=True)
class Sampler:
    """The policy and both ways to sample from it; each returns the token ids of every completion, by prompt."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def ours(self, prompts: list[RolloutPrompt], temperature: float, samples: int) -> list[list[int]]:
        engine = TransformersEngine(self.model, self.tokenizer, batch_size=BATCH_SIZE)
        settings = SamplingParams(samples=samples, temperature=temperature, max_new_tokens=MAX_NEW_TOKENS)
        return [list(completion.token_ids) for completion in engine.sample(prompts, settings=settings, seed=0)]

    def peer(self, prompts: list[RolloutPrompt], temperature: float, samples: int) -> list[list[int]]:
        torch.manual_seed(0)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        tokens: list[list[int]] = []
        for start in range(0, len(prompts), BATCH_SIZE // samples):
            ids = [list(prompt.prompt_ids) for prompt in prompts[start : start + BATCH_SIZE // samples]]
            batch = self.tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
            sequences = self.model.generate(
                **batch.to(self.model.device),
                **(sampling if temperature else {"do_sample": False}),
                max_new_tokens=MAX_NEW_TOKENS,
                num_return_sequences=samples,
            )
            generated = sequences[:, batch["input_ids"].shape[1] :]
            self.tokenizer.batch_decode(generated, skip_special_tokens=True)  # the engine returns texts too
            tokens += [self._until_end(row) for row in generated.tolist()]
        return tokens

    def _until_end(self, row: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return row[: row.index(end) + 1] if end in row else row


def mixed(count: int) -> list[Problem]:
    """Return training problems."""
    return generate_problems("train", count, seed=0)


def skewed(count: int) -> list[Problem]:
    """Return problems of 1 step, and in every ten one of 7 or 8 steps, shuffled."""
    problems = generate_problems("short", count - count // 10, seed=0, shape=StoryShape(steps=(1,)))
    problems += generate_problems("longer", count // 10, seed=0, shape=StoryShape(steps=(7, 8)))
    random.Random(0).shuffle(problems)
    return problems


def check(sampler: Sampler, prompts: list[RolloutPrompt]) -> tuple[int, int]:
    """Return the tokens that ours and the peer sample; raise unless both do the same work. Warms up as well."""
    greedy = zip(sampler.ours(prompts, 0.0, 1), sampler.peer(prompts, 0.0, 1), strict=True)
    equal = sum(ours == peer for ours, peer in greedy) / len(prompts)
    if equal < MIN_EQUAL:
        raise RuntimeError(f"greedy completions are equal for {equal:.1%} of the problems only")
    ours, peer = (sum(map(len, sample(prompts, 1.0, SAMPLES))) for sample in (sampler.ours, sampler.peer))
    if abs(ours / peer - 1.0) > MAX_LENGTH_DIFFERENCE:
        raise RuntimeError(f"completions have {ours:,} tokens with the engine and {peer:,} with plain generate")
    return ours, peer


def benchmark(quick: bool) -> list[Claim]:
    """Return completions and tokens per second for mixed and for skewed lengths."""
    path = bundled_policy_path("S")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(path).eval().to(device)
    sampler = Sampler(model, AutoTokenizer.from_pretrained(path))
    claims = []
    for name, problems in (("mixed lengths", mixed), ("skewed lengths", skewed)):
        prompts = build_prompts(problems(64 if quick else 256), sampler.tokenizer)
        ours_tokens, peer_tokens = check(sampler, prompts)
        seconds = harness.interleave(
            {
                "ours": lambda prompts=prompts: sampler.ours(prompts, 1.0, SAMPLES),
                "peer": lambda prompts=prompts: sampler.peer(prompts, 1.0, SAMPLES),
            },
            repetitions=2 if quick else 3,
        )
        ours, peer = 1.0 / seconds["ours"], 1.0 / seconds["peer"]
        completions = len(prompts) * SAMPLES
        claims += [
            harness.rate_claim(
                name, ours=completions * ours, peer=completions * peer, unit="completions/s", required=2.0
            ),
            harness.rate_claim(f"{name}, tokens", ours=ours_tokens * ours, peer=peer_tokens * peer, unit="tokens/s"),
        ]
    return claims


if __name__ == "__main__":
    harness.run(benchmark, name="rollouts")
