"""One refresh: the current policy samples, the verifier grades, correct and wrong answers become pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from sage_dpo.config import RunConfig, ServerEngineSettings
from sage_dpo.errors import DataError, EmptyPoolError
from sage_dpo.pairs.build import build_pairs
from sage_dpo.pipeline.policies import policy_path
from sage_dpo.pipeline.sampling import sample_shared
from sage_dpo.processes import ONE, Processes
from sage_dpo.records import Completion, PreferencePair, Problem, Verdict
from sage_dpo.rules import success_rate, verdict_counts
from sage_dpo.run_folder import PoolFolder
from sage_dpo.selection.reference import model_fingerprint
from sage_dpo.selection.source import PoolContents
from sage_dpo.storage import read_json, read_records, write_json, write_records
from sage_dpo.training.resume import rows_sha256
from sage_dpo.verification import Verifier, requests_for

if TYPE_CHECKING:
    from sage_dpo.rollouts.handover import Handover


@dataclass(frozen=True)
class RefreshInfo:
    """What a refresh cost and found.

    Attributes:
        version, step: pool version, and the optimizer step it was made after.
        seconds: wall-clock of sampling, verification and pairing.
        generated_tokens: completion tokens sampled.
        prompt_tokens: tokens of their prompts, once per sample.
        competence: success rate over all completions; 0 without a known verdict.
        verdicts, exclusions: counts by kind and by reason.
        policy: fingerprint of the policy that was asked.
        pairs: how many were made.
    """

    version: int
    step: int
    seconds: float
    generated_tokens: int
    competence: float
    verdicts: dict[str, int]
    exclusions: dict[str, int]
    prompt_tokens: int = 0
    policy: str = ""
    pairs: int = 0


class OnPolicySource:
    """Makes and stores the pool of each refresh; see `sage_dpo.selection.source.PairSource`.

    Args:
        config: the arm's configuration.
        problems: what the policy is asked.
        tokenizer: the policy's.
        verifier: grades the completions.
        folder: where a pool version is kept.
        progress: show progress bars.
        processes: that share the work; each of them refreshes and restores, and the main one writes.
    """

    def __init__(
        self,
        config: RunConfig,
        problems: Sequence[Problem],
        tokenizer: Any,
        verifier: Verifier,
        folder: Callable[[int], PoolFolder],
        *,
        progress: bool = True,
        processes: Processes = ONE,
    ) -> None:
        self._config, self._processes = config, processes
        self._problems = list(problems)
        self._tokenizer = tokenizer
        self._verifier = verifier
        self._folder = folder
        self._progress = progress
        self._handover = policy_handover(config, tokenizer, folder)

    def refresh(self, model: Any, *, version: int, step: int) -> PoolContents:
        """Sample K completions a problem, verify, pair, store.

        Completions are kept as they come, and a pool that is complete is read back where the same policy asks again.
        """
        folder, processes = self._folder(version), self._processes
        policy = "" if model is None else model_fingerprint(model)
        if processes.on_main(lambda: _is_made(folder, policy)):
            return self.restore(version=version)
        problems = problems_of_pool(self._problems, self._config.rollouts.problems_per_pool, version)
        completions, seconds = sample_shared(
            processes,
            problems,
            self._config.rollouts,
            model=model,
            tokenizer=self._tokenizer,
            seed=self._config.seed,
            policy_version=version,
            progress=self._progress,
            journal=folder.journal,
            policy=policy,
            handover=self._handover,
        )
        if self._handover is not None and processes.is_main:
            self._handover.clear(version)
        started = time.perf_counter()
        requests = processes.share_of(requests_for(problems, completions))
        verdicts = processes.gathered(self._verifier.verify(requests, progress=self._progress), "verdicts")
        pairs, exclusions, failure = self._build(problems, completions, verdicts, version)
        info = RefreshInfo(
            version=version,
            step=step,
            seconds=seconds + time.perf_counter() - started,
            generated_tokens=sum(len(c.token_ids) for c in completions),
            prompt_tokens=sum(len(c.prompt_ids) for c in completions),
            competence=success_rate(verdict.kind for verdict in verdicts) or 0.0,
            verdicts=verdict_counts(verdicts),
            exclusions=exclusions,
            policy=policy,
            pairs=len(pairs),
        )
        contents = self._agreed(pairs, info)
        if processes.is_main:
            write_records(folder.completions, completions, Completion)
            write_records(folder.verdicts, verdicts, Verdict)
            write_records(folder.pairs, pairs, PreferencePair)
            write_json(folder.info, asdict(info))  # what it cost counts, also when it made no pair
            _delete_journals(folder)
        processes.wait()
        if failure is not None:
            raise failure
        return contents

    def _agreed(self, pairs: Sequence[PreferencePair], info: RefreshInfo) -> PoolContents:
        """Return a pool's contents, which all processes have alike.

        Raises:
            ProcessError: they have not.
        """
        contents = pool_contents(pairs, info)
        values = {"policy": info.policy, "pairs": info.pairs, "sha256": rows_sha256(contents.pairs) if pairs else ""}
        remedy = "start all from the same files and versions, and see that the run folder is one and the same for all"
        self._processes.agree(f"the pool of version {info.version}", values, remedy=remedy)
        return contents

    def _build(
        self,
        problems: Sequence[Problem],
        completions: Sequence[Completion],
        verdicts: Sequence[Verdict],
        version: int,
    ) -> tuple[list[PreferencePair], dict[str, int], EmptyPoolError | None]:
        try:
            build = build_pairs(
                problems,
                completions,
                verdicts,
                settings=self._config.pairs,  # type: ignore[arg-type]
                seed=self._config.seed,
                policy_version=version,
                max_length=self._config.training.max_length,
                eos_token_id=self._tokenizer.eos_token_id,
                reference=partial(encode_solution, self._tokenizer),
            )
        except EmptyPoolError as error:
            return [], error.exclusions, error
        return build.pairs, build.counts, None

    def restore(self, *, version: int) -> PoolContents:
        """Read back what `refresh` stored."""
        folder = self._folder(version)
        if self._processes.is_main:
            _delete_journals(folder)  # of a process that ended between the two
        return self._agreed(read_records(folder.pairs, PreferencePair), read_info(folder))


def _is_made(folder: PoolFolder, policy: str) -> bool:
    """Whether a pool was completed, with pairs, by the same policy."""
    is_there = all(path.is_file() for path in (folder.info, folder.completions, folder.verdicts, folder.pairs))
    return is_there and (made := read_info(folder)).policy == policy and bool(made.pairs)


def _delete_journals(folder: PoolFolder) -> None:
    for journal in folder.journals():
        journal.unlink(missing_ok=True)


def policy_handover(config: RunConfig, tokenizer: Any, folder: Callable[[int], PoolFolder]) -> Handover | None:
    """Return how servers get the policy of this recipe; `None` where nothing is handed over."""
    engine = config.rollouts.engine
    if not isinstance(engine, ServerEngineSettings) or engine.sync is None:
        return None
    from sage_dpo.rollouts.handover import Handover

    shared = engine.sync.folder

    def place(version: int) -> Path:
        return Path(shared) / f"{config.name}-{version:03d}" if shared else folder(version).served_policy

    return Handover(engine.sync, tokenizer, untuned=policy_path(config.policy.path), folder=place)


def encode_solution(tokenizer: Any, problem: Problem) -> tuple[int, ...]:
    """Return the token ids of a problem's reference solution, as if the policy had sampled it."""
    if problem.solution is None:
        raise DataError(f"problem {problem.id!r} has no reference solution; switch use_reference_solution off")
    return (*tokenizer(problem.solution, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)


def problems_of_pool(problems: Sequence[Problem], count: int | None, version: int) -> list[Problem]:
    """Return the `count` problems that pool `version` asks: they take turns, and begin again after the last."""
    if count is None or count >= len(problems):
        return list(problems)
    start = version * count
    return [problems[(start + offset) % len(problems)] for offset in range(count)]


def read_info(folder: PoolFolder) -> RefreshInfo:
    """Raises `DataError` where the file is missing or holds something else."""
    values = read_json(folder.info)
    try:
        return RefreshInfo(**values)
    except TypeError as error:
        raise DataError(
            f"{folder.info} is not what a refresh writes ({error}); restore it from a copy, or begin anew in another "
            "folder (`--output`)"
        ) from None


def pool_contents(pairs: Sequence[PreferencePair], info: RefreshInfo) -> PoolContents:
    """Return the trainer's view of freshly made pairs."""
    rates = [pair.success_rate for pair in pairs]
    return PoolContents(
        pairs=pairs_dataset(pairs),
        success_rates=None if any(rate is None for rate in rates) else np.array(rates, dtype=np.float64),
        competence=info.competence,
        metrics={"refresh/seconds": info.seconds, "refresh/competence": info.competence},
    )


def pairs_dataset(pairs: Sequence[PreferencePair]) -> Dataset:
    """Return pairs as a tokenized data set, the way `SAGETrainer` takes them without tokenizing again."""
    column: Callable[[str], list[Any]] = lambda name: [getattr(pair, name) for pair in pairs]  # noqa: E731
    names = ("id", "problem_id", "success_rate")
    tokens = {name: [list(ids) for ids in column(name)] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    return Dataset.from_dict({**{name: column(name) for name in names}, **tokens})
