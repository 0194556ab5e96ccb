"""Variance and signal-to-noise ratio of the DPO gradient over microbatches of the pairs each selector keeps.

The gradient is that of training: in every weight, or with LoRA in the adapter's weights alone. The untuned policy then
gets a new adapter, as before the first step: its B is 0, so that only B has a gradient there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sage_dpo.config import RunConfig, SelectorSettings
from sage_dpo.core.margins import dpo_loss, implicit_margin
from sage_dpo.core.selection import kept_count
from sage_dpo.core.statistics import gradient_snr_from_norms, seed_interval
from sage_dpo.pipeline.policies import load_model, load_trained, load_untrained
from sage_dpo.records import PreferencePair
from sage_dpo.selection.dataset import TOKEN_COLUMNS
from sage_dpo.selection.models import LoadedModels
from sage_dpo.selection.scoring import PairScorer
from sage_dpo.selectors import Candidates, make_selector
from sage_dpo.storage import read_records
from sage_dpo.studies.comparisons import as_dict
from sage_dpo.studies.outcomes import ArmOutcome

CANDIDATES, MICROBATCH = 512, 8
"""Pairs drawn from a pool, and pairs in one gradient sample."""


def gradient_noise(
    outcomes: Sequence[ArmOutcome], configs: Mapping[int, RunConfig], checkpoint_arm: str
) -> dict[str, Any]:
    """Measure at two policies: the untuned one on the first pool, the one `checkpoint_arm` trained on its last.

    At each policy the same `CANDIDATES` random pairs of the pool are offered to every selector of the study; each kept
    set is cut into random microbatches, whose gradients are the samples. Arms that select alike are measured once,
    under the name of the first. A pool of too few pairs is left out.

    Returns:
        `{policy: {arm: {"snr", "variance", "signal": {mean, low, high}}}}`: |E G|^2 / tr Cov G, tr Cov G and |E G|^2
        of a microbatch of `MICROBATCH` pairs, means over seeds.
    """
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for seed, config in configs.items():
        folder = next(o.folder for o in outcomes if o.seed == seed and o.arm == checkpoint_arm)
        last = max((version for version, own in folder.refreshes().items() if own.scores.is_file()), default=0)
        places = {
            "untuned": (load_untrained(config.policy, seed=seed), 0),
            checkpoint_arm: (load_trained(config.policy, folder.policy, is_trainable=True), last),
        }
        for place, (model, version) in places.items():
            for arm, values in _at_policy(config, model, folder.pool(version).pairs, seed).items():
                for name, value in values.items():
                    found[place][arm][name].append(value)
    return {
        place: {arm: {n: as_dict(seed_interval(v)) for n, v in rows.items()} for arm, rows in arms.items()}
        for place, arms in found.items()
    }


def _at_policy(config: RunConfig, model: Any, path: Path, seed: int) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    pairs = read_records(path, PreferencePair)
    pairs = [pairs[i] for i in rng.permutation(len(pairs))[:CANDIDATES]]
    reference = load_model(config.policy)
    models = LoadedModels(model, reference, token_budget=config.training.score_token_budget)
    columns = {name: [getattr(pair, name) for pair in pairs] for name in TOKEN_COLUMNS}
    scores, _ = PairScorer(models).score(columns, with_reference=True)
    base = np.concatenate([scores.ref_chosen_logps, scores.ref_rejected_logps])
    result: dict[str, dict[str, float]] = {}
    seen: list[SelectorSettings] = []
    for arm in config.arms:
        own = config.for_arm(arm).selection
        if own in seen or not config.arms[arm].train:
            continue
        seen.append(own)
        settings = own.model_copy(update={"implicit_beta": own.implicit_beta or config.training.beta})
        candidates = Candidates(len(pairs), np.random.default_rng(seed), scores)
        kept = make_selector(settings).select(candidates, kept_count(len(pairs), settings.keep_ratio)).kept
        if len(kept) >= 2 * MICROBATCH:
            result[arm] = _noise(model, pairs, base, rng.permutation(kept), config.training.beta)
    return result


def _noise(
    model: Any, pairs: Sequence[PreferencePair], base: NDArray[np.float64], rows: NDArray[np.int64], beta: float
) -> dict[str, float]:
    batches = rows[: len(rows) // MICROBATCH * MICROBATCH].reshape(-1, MICROBATCH)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = torch.zeros(sum(parameter.numel() for parameter in parameters), dtype=torch.float64)
    norms = []
    model.eval()
    for batch in batches:
        chosen = [(pairs[i].prompt_ids, pairs[i].chosen_ids) for i in batch]
        rejected = [(pairs[i].prompt_ids, pairs[i].rejected_ids) for i in batch]
        logps = _logps(model, chosen + rejected)
        reference = torch.tensor(np.concatenate([base[batch], base[len(pairs) + batch]])).to(logps)
        half = len(batch)
        margin = implicit_margin(logps[:half], logps[half:], reference[:half], reference[half:], beta=beta)
        gradients = torch.autograd.grad(dpo_loss(margin).mean(), parameters)
        # float64: the variance is a small difference of large sums
        flat = torch.cat([gradient.flatten() for gradient in gradients]).cpu().double()
        norms.append(float(flat.square().sum()))
        total += flat
    count, mean_norm = len(norms), float((total / len(norms)).square().sum())
    variance = (float(np.mean(norms)) - mean_norm) * count / (count - 1)
    return {
        "snr": gradient_snr_from_norms(norms, mean_norm),
        "variance": variance,
        "signal": mean_norm - variance / count,
    }


def _logps(model: Any, completions: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Tensor:
    """Return log-probabilities of completions with their graph; right-padded, so the causal mask is enough."""
    width = max(len(prompt) + len(completion) for prompt, completion in completions)
    ids = torch.zeros(len(completions), width, dtype=torch.long)
    mask = torch.zeros(len(completions), width - 1, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(completions):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor([*prompt, *completion])
        mask[row, len(prompt) - 1 : end - 1] = True
    ids, mask = ids.to(model.device), mask.to(model.device)
    logps = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    return torch.where(mask, logps.gather(-1, ids[:, 1:, None]).squeeze(-1), 0.0).sum(-1)
