"""What training did to the answers of the untuned policy: how likely they still are, the right and the wrong ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_dpo.config import RunConfig
from sage_dpo.core.statistics import seed_interval
from sage_dpo.forward import TokenizedCompletion, score_completions
from sage_dpo.pipeline.policies import load_model, load_trained
from sage_dpo.records import Completion, Verdict
from sage_dpo.run_folder import PoolFolder
from sage_dpo.storage import read_records
from sage_dpo.studies.comparisons import as_dict
from sage_dpo.studies.outcomes import ArmOutcome


def drift(outcomes: Sequence[ArmOutcome], configs: Mapping[int, RunConfig]) -> dict[str, Any]:
    """Compare the log-probabilities of the first pool's samples under each arm's last policy and the untuned one.

    Returns:
        `{arm: {name: {mean, low, high}}}`, means over seeds, in nats an answer: `correct` and `wrong`, the mean change
        of log p over the right and the wrong samples (a `correct` below 0 is displacement: preferred answers become
        less likely, too), and `kl`, minus the mean change over all samples. At a sampling temperature of 1 that
        estimates KL(untuned || arm).
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed, config in configs.items():
        own = [outcome for outcome in outcomes if outcome.seed == seed]
        samples, is_correct = _samples(own[0].folder.run.first_pool)
        before = _logps(load_model(config.policy), samples, config)
        for outcome in (o for o in own if config.arms[o.arm].train):
            change = _logps(load_trained(config.policy, outcome.folder.policy), samples, config) - before
            for name, value in _summary(change, is_correct).items():
                found[outcome.arm][name].append(value)
    return {arm: {name: as_dict(seed_interval(v)) for name, v in values.items()} for arm, values in found.items()}


def _samples(pool: PoolFolder) -> tuple[list[TokenizedCompletion], NDArray[np.bool_]]:
    """Return the graded samples of a pool, and which are right."""
    verdicts = {(v.problem_id, v.sample): v for v in read_records(pool.verdicts, Verdict) if v.kind.is_known}
    graded = [c for c in read_records(pool.completions, Completion) if (c.problem_id, c.sample) in verdicts]
    right = [verdicts[c.problem_id, c.sample].is_correct for c in graded]
    return [TokenizedCompletion(c.prompt_ids, c.token_ids) for c in graded], np.array(right, dtype=bool)


def _logps(policy: Any, samples: Sequence[TokenizedCompletion], config: RunConfig) -> NDArray[np.float64]:
    """Return log p of each sample `[N]`, in nats."""
    budget = config.training.score_token_budget
    device = policy.device
    return score_completions(policy, samples, token_budget=budget, device=device, with_informativeness=False).logps


def _summary(change: NDArray[np.float64], is_correct: NDArray[np.bool_]) -> dict[str, float]:
    """Return the means of a change `[N]` in nats: over the right samples, over the wrong ones, minus that over all."""
    return {
        "correct": float(change[is_correct].mean()),
        "wrong": float(change[~is_correct].mean()),
        "kl": float(-change.mean()),
    }
