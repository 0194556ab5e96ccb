"""Tokens sampled per CPU second from a pretrained model, in this process and by what else samples on this machine.

SmolLM2-135M-Instruct (30 layers, 49,152 tokens; extra `smollm2`) answers everyday questions, K = 8 completions of each
at temperature 0.8, at most 48 tokens, in float32 and in bfloat16. Peers:

- *generate*: transformers' `model.generate`, batch by batch in file order, with `num_return_sequences=K`.
- *generate_batch*: transformers' continuous batching, paged attention.
- *server*: with `--server URL`, a server on this machine that holds the same model (`vllm serve FOLDER --dtype
  float32`), asked through our server engine; its process and those that it started are timed, not this one.

CPU seconds, user and system, so that what else runs on the machine counts less. Before any time is taken, greedy
completions of ours and of `generate` must be equal for 90 % of the problems in float32; the lengths at temperature 0.8
must be within 10 %. Tokens are those up to the end-of-sequence token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import psutil
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks import harness
from benchmarks.harness import Claim
from sage_dpo.config import PolicySettings, ServerEngineSettings
from sage_dpo.everyday.world import generate_problems
from sage_dpo.pipeline.policies import load_model, load_tokenizer
from sage_dpo.rollouts import RolloutPrompt, SamplingParams, build_prompts
from sage_dpo.rollouts.server import ServerEngine
from sage_dpo.rollouts.transformers import TransformersEngine

SAMPLES = 8
MAX_NEW_TOKENS = 48
TEMPERATURE = 0.8
GENERATE_BATCH = 64  # `generate` was fastest with it on two cores; ours has its default of 256
TEMPLATE = "{problem}\nReply with the answer only."
MIN_EQUAL, MAX_LENGTH_DIFFERENCE = 0.9, 0.1


Candidate = tuple[Callable[[], list[list[int]]], Callable[[], float]]
"""What samples, and the clock that counts its seconds."""


@dataclass(frozen=True)
class Sampler:
    """The policy and the ways to sample from it; each returns the token ids of every completion."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: list[RolloutPrompt]

    def ours(self, samples: int = SAMPLES, temperature: float = TEMPERATURE) -> list[list[int]]:
        return self._sampled(TransformersEngine(self.model, self.tokenizer), samples, temperature)

    def server(self, url: str) -> list[list[int]]:
        settings = ServerEngineSettings(kind="server", base_url=url, concurrency=256)
        return self._sampled(ServerEngine(settings, self.tokenizer), SAMPLES, TEMPERATURE)

    def generate(self, samples: int = SAMPLES, temperature: float = TEMPERATURE) -> list[list[int]]:
        torch.manual_seed(0)
        step = GENERATE_BATCH // samples
        tokens: list[list[int]] = []
        for start in range(0, len(self.prompts), step):
            ids = [list(prompt.prompt_ids) for prompt in self.prompts[start : start + step]]
            batch = self.tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
            sequences = self.model.generate(
                **batch, generation_config=self._generation_config(temperature, num_return_sequences=samples)
            )
            tokens += [self._until_end(row) for row in sequences[:, batch["input_ids"].shape[1] :].tolist()]
        return tokens

    def generate_batch(self) -> list[list[int]]:
        results = self.model.generate_batch(
            [list(prompt.prompt_ids) for prompt in self.prompts],
            generation_config=self._generation_config(TEMPERATURE, num_return_sequences=SAMPLES),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=32, num_blocks=2048, max_batch_tokens=512, max_requests_per_batch=256, seed=0
            ),
        )
        return [self._until_end(list(result.generated_tokens)) for result in results.values()]

    def _sampled(self, engine: Any, samples: int, temperature: float) -> list[list[int]]:
        settings = SamplingParams(samples=samples, temperature=temperature, max_new_tokens=MAX_NEW_TOKENS)
        return [list(completion.token_ids) for completion in engine.sample(self.prompts, settings=settings, seed=0)]

    def _generation_config(self, temperature: float, **more: Any) -> GenerationConfig:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        return GenerationConfig(
            **(sampling if temperature else {"do_sample": False}),
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            **more,
        )

    def _until_end(self, row: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return row[: row.index(end) + 1] if end in row else row


def server_seconds(url: str) -> float:
    """Return the CPU seconds so far of the process that listens at `url` on this machine, and of those it started."""
    port = urlsplit(url).port
    owners = [
        entry.pid for entry in psutil.net_connections("tcp") if entry.status == "LISTEN" and entry.laddr.port == port
    ]
    if not owners:
        raise RuntimeError(f"no process of this machine listens at {url}; start the server here, its CPU time is read")
    server = psutil.Process(owners[0])
    return sum(sum(process.cpu_times()[:2]) for process in [server, *server.children(recursive=True)])


def check_greedy(sampler: Sampler) -> None:
    """Raise unless ours and `generate` continue the prompts alike."""
    greedy = zip(sampler.ours(1, 0.0), sampler.generate(1, 0.0), strict=True)
    equal = sum(ours == peer for ours, peer in greedy) / len(sampler.prompts)
    if equal < MIN_EQUAL:
        raise RuntimeError(f"greedy completions are equal for {equal:.1%} of the problems only")


def measure(candidates: dict[str, Candidate], repetitions: int) -> dict[str, float]:
    """Return tokens per CPU second of each, medians over repetitions in turns; the first is ours.

    Raises:
        RuntimeError: one sampled far more or fewer tokens than ours.
    """
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    tokens: dict[str, int] = {}
    for repetition in range(repetitions):
        names = list(candidates) if repetition % 2 == 0 else list(reversed(candidates))
        for name in names:
            sample, clock = candidates[name]
            start = clock()
            tokens[name] = sum(map(len, sample()))
            rates[name].append(tokens[name] / (clock() - start))
            print(f"{name}: {tokens[name]:,} tokens, {rates[name][-1]:.1f} tokens/CPU s", flush=True)
    ours, *peers = candidates
    for peer in peers:
        if abs(tokens[peer] / tokens[ours] - 1.0) > MAX_LENGTH_DIFFERENCE:
            raise RuntimeError(f"{peer} sampled {tokens[peer]:,} tokens where ours sampled {tokens[ours]:,}")
    return {name: statistics.median(values) for name, values in rates.items()}


def compare(quick: bool, *, server: str | None, dtypes: list[str]) -> list[Claim]:
    """Return tokens per CPU second, beside each peer."""
    claims = []
    for dtype in dtypes:
        settings = PolicySettings(path="smollm2", dtype=dtype)
        tokenizer = load_tokenizer(settings)
        problems = generate_problems("train", 16 if quick else 64, seed=0)
        prompts = build_prompts(problems, tokenizer, prompt_template=TEMPLATE)
        sampler = Sampler(load_model(settings).eval(), tokenizer, prompts)
        if dtype == "float32":
            check_greedy(replace(sampler, prompts=prompts[:16]))
        candidates: dict[str, Candidate] = {
            "ours": (sampler.ours, time.process_time),
            f"generate, batch {GENERATE_BATCH}": (sampler.generate, time.process_time),
            "generate_batch": (sampler.generate_batch, time.process_time),
        }
        if server:
            candidates[f"server at {server}"] = (partial(sampler.server, server), partial(server_seconds, server))
        rates = measure(candidates, repetitions=1 if quick else 3)
        claims += [
            harness.rate_claim(f"{dtype}: {peer}", ours=rates["ours"], peer=rates[peer], unit="tokens/CPU s")
            for peer in list(candidates)[1:]
        ]
    if not server:
        print("no server was given (--server URL), so that none is compared with")
    return claims


if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--server", help="a server on this machine that holds the same model, http://127.0.0.1:PORT/v1")
    own.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="what the weights are loaded in here")
    options, rest = own.parse_known_args()
    benchmark = partial(compare, server=options.server, dtypes=options.dtypes)
    harness.run(benchmark, name="rollouts_smollm2", arguments=rest, parents=[own])
