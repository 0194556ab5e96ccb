"""Run a policy on suites of problems: sample, grade, average; keep every completion and verdict.

Training and testing sample and grade alike: the same prompts, the same engine, the same verifier.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from sage_dpo import __version__
from sage_dpo.config import LOCAL_ENGINE, RolloutSettings, TransformersEngineSettings
from sage_dpo.core.statistics import mean_at_k
from sage_dpo.errors import DataError
from sage_dpo.evaluation.results import EvaluationResult, SuiteResult, read_result, write_result
from sage_dpo.evaluation.suites import BENCHMARKS, GREEDY
from sage_dpo.processes import ONE, Processes
from sage_dpo.records import Problem, Verdict, problems_sha256
from sage_dpo.rollouts.build import build_engine
from sage_dpo.rollouts.engine import RolloutEngine, SamplingParams, build_prompts
from sage_dpo.verification import RULES, VerificationRequest, requests_for


class Grader(Protocol):
    """What evaluation needs of `verification.Verifier`."""

    def verify(self, requests: Sequence[VerificationRequest], progress: bool = False) -> list[Verdict]: ...


def suite_sampling(name: str, *, max_new_tokens: int, samples: int | None = None) -> SamplingParams:
    """Return how a suite is sampled: by its record if it is a benchmark, else greedily.

    Args:
        name: of the suite.
        max_new_tokens: completion token limit.
        samples: k of avg@k instead of the record's; 1 is greedy, more are sampled as AMC23 is.
    """
    benchmark = BENCHMARKS.get(name)
    k = samples or (benchmark.samples if benchmark else 1)
    if k == 1:
        return SamplingParams(**GREEDY, max_new_tokens=max_new_tokens)  # type: ignore[arg-type]
    like = benchmark if benchmark and benchmark.samples > 1 else BENCHMARKS["amc23"]
    return SamplingParams(k, like.temperature, like.top_p, max_new_tokens=max_new_tokens)


def evaluate_suite(
    engine: RolloutEngine,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    problems: Sequence[Problem],
    *,
    sampling: SamplingParams,
    verifier: Grader,
    seed: int = 0,
    prompt_template: str = "{problem}",
    system_prompt: str | None = None,
    progress: bool = False,
    processes: Processes = ONE,
) -> SuiteResult:
    """Sample and grade one suite.

    Args:
        engine: samples from the policy.
        tokenizer: of the policy.
        name: of the suite.
        problems: all of them, or a part (then the result is partial if the suite is a benchmark).
        sampling: k, temperature and limits.
        verifier: grades.
        seed: of the sampling; greedy suites do not use it.
        prompt_template, system_prompt: as in `config.RolloutSettings`.
        progress: show progress bars.
        processes: that share the work; each of them calls this, and gets the result.

    Raises:
        DataError: no problems, or the engine returned another number of completions than asked for.
    """
    if not problems:
        raise DataError(f"suite {name!r} has no problems; load it again")
    started = time.perf_counter()
    prompts = build_prompts(problems, tokenizer, prompt_template=prompt_template, system_prompt=system_prompt)
    sampled = engine.sample(processes.share_of(prompts), settings=sampling, seed=seed, progress=progress)
    completions = processes.gathered(sampled, f"completions of {name}")
    requests = processes.share_of(requests_for(problems, completions))
    verdicts = processes.gathered(verifier.verify(requests, progress=progress), f"verdicts on {name}")
    benchmark = BENCHMARKS.get(name)
    return SuiteResult(
        name=name,
        sampling=sampling,
        per_problem=_per_problem(name, problems, verdicts, sampling.samples),
        completions=completions,
        verdicts=verdicts,
        seconds=time.perf_counter() - started,
        is_partial=benchmark is not None and len(problems) < benchmark.size,
    )


def _per_problem(
    name: str, problems: Sequence[Problem], verdicts: Sequence[Verdict], samples: int
) -> tuple[float, ...]:
    graded: dict[str, list[bool]] = defaultdict(list)
    for verdict in verdicts:
        graded[verdict.problem_id].append(verdict.is_correct)
    short = [problem.id for problem in problems if len(graded[problem.id]) != samples]
    if short:
        raise DataError(
            f"suite {name!r}: problem {short[0]!r} and {len(short) - 1} others have another number of verdicts than "
            f"the {samples} samples asked for; the engine or the verifier dropped some"
        )
    rates = mean_at_k([sum(graded[problem.id]) for problem in problems], samples)
    return tuple(float(rate) for rate in rates)


def evaluate_policy(
    load_model: Callable[[], Any],
    tokenizer: PreTrainedTokenizerBase,
    suites: Mapping[str, Sequence[Problem]],
    *,
    verifier: Grader,
    rollouts: RolloutSettings,
    max_new_tokens: int,
    seed: int = 0,
    folder: Path | None = None,
    samples: Mapping[str, int] | None = None,
    progress: bool = False,
    processes: Processes = ONE,
) -> EvaluationResult:
    """Evaluate a policy in this process, on the model's own device and in its dtype.

    With a folder, each suite is written when it is done (`<suite>.parquet`, rows of `GradedCompletion`, and
    `<suite>.json`), and a suite that was already evaluated with the same weights, problems and settings is read back.

    Args:
        load_model: returns the policy, a transformers or PEFT model.
        tokenizer: of the policy.
        suites: problems by suite name. Names of `BENCHMARKS` are sampled by their record, others greedily.
        verifier: grades.
        rollouts: prompt template, system prompt and batch size are used. A served engine is not: it may hold other
            weights than the policy that is to be evaluated.
        max_new_tokens: completion token limit.
        seed: of the sampled suites.
        folder: where results are kept; `None` keeps none.
        samples: k of avg@k by suite, instead of the record's.
        progress: show progress bars.
        processes: that share the work; each of them calls this, and gets the results. The main one reads and writes.

    Raises:
        DataError: no suites, or one without problems.
    """
    if not suites:
        raise DataError("no suites to evaluate on; name at least one")
    model = load_model()
    settings = rollouts.engine
    if not isinstance(settings, TransformersEngineSettings):  # an endpoint holds another policy than this one
        settings = LOCAL_ENGINE
    engine = build_engine(settings, model=model, tokenizer=tokenizer)
    weights = weights_sha256(model) if folder and processes.is_main else ""
    results = {}
    for name, problems in suites.items():
        sampling = suite_sampling(name, max_new_tokens=max_new_tokens, samples=(samples or {}).get(name))
        key = _key(weights, problems, sampling, rollouts, tokenizer, seed)
        stored = functools.partial(read_result, folder, name, key, sampling) if folder else lambda: None
        result = processes.on_main(stored)
        if result is None:
            result = evaluate_suite(
                engine,
                tokenizer,
                name,
                problems,
                sampling=sampling,
                verifier=verifier,
                seed=seed,
                prompt_template=rollouts.prompt_template,
                system_prompt=rollouts.system_prompt,
                progress=progress,
                processes=processes,
            )
            if folder and processes.is_main:
                write_result(folder, result, key, problems)
        results[name] = result
    return EvaluationResult(results)


def _key(
    weights: str,
    problems: Sequence[Problem],
    sampling: SamplingParams,
    rollouts: RolloutSettings,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> dict[str, Any]:
    """Return everything that a suite's result depends on."""
    return {
        "weights": weights,
        "problems": problems_sha256(problems),
        "sampling": asdict(sampling),
        "seed": 0 if sampling.is_greedy else seed,
        "grader": f"sage-dpo {__version__}, rules {RULES}, math-verify {version('math-verify')}",
        "prompt_template": rollouts.prompt_template,
        "system_prompt": rollouts.system_prompt,
        "chat_template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
    }


def weights_sha256(model: torch.nn.Module) -> str:
    """Return a hash of every parameter's name, dtype, shape and value."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()
