"""Forward-only scoring against TRL's reference pass.

The same pairs (completion lengths log-normal: mean 300, sigma 0.9, up to 3,072) and the same weights. The peer is what
`precompute_ref_log_probs=True` runs: `DPOTrainer`'s collator and `compute_ref_log_probs` over the pairs in file order,
at its default batch size of 8 pairs and at the best of 1, 2, 4, 8, 16. It gets a reference model of its own, for which
TRL computes nothing but log-probabilities. Ours is `score_completions`, which also computes the informativeness. Both
must give the same log-probabilities before anything is timed. Peak memory is measured in child processes of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer

from benchmarks import harness
from benchmarks.harness import Claim, cost_claim, counted_tokens, interleave, peak_memory_added, rate_claim
from benchmarks.workload import make_pairs, make_policy, make_tokenizer, temporary_folder, trl_arguments
from sage_dpo.forward import as_completions, score_completions

PAIRS = {2_000: 48, 32_000: 16}  # by vocabulary
QUICK_PAIRS = {2_000: 24, 32_000: 8}
DEFAULT_BATCH = 8  # TRL's per_device_train_batch_size
BATCHES = (1, 2, 4, 8, 16)
TOKEN_BUDGET = 2048
REQUIRED_AT_DEFAULT, REQUIRED_AT_BEST = 6.0, 3.0


class Contest:
    """The two contestants on the same pairs and weights."""

    def __init__(
        self, make_model: Callable[[], PreTrainedModel], pairs: Dataset, *, token_budget: int = TOKEN_BUDGET
    ) -> None:
        arguments = trl_arguments(temporary_folder(), per_device_train_batch_size=DEFAULT_BATCH)
        self.model = make_model()  # the same weights as the peer's, not patched by TRL
        vocabulary = self.model.config.vocab_size
        self.trainer = DPOTrainer(
            make_model(),
            ref_model=make_model(),
            args=DPOConfig(**arguments),
            train_dataset=pairs,
            processing_class=make_tokenizer(vocabulary),
        )
        self.pairs = self.trainer.train_dataset  # tokenized
        self.model.to(self.trainer.accelerator.device)
        self.completions = as_completions(self.pairs[:])
        self.token_budget = token_budget

    def peer(self, batch_size: int) -> np.ndarray:
        """Return `[2 N]` log-probabilities, all chosen, then all rejected, by TRL."""
        loader = DataLoader(self.pairs, batch_size=batch_size, collate_fn=self.trainer.data_collator)  # type: ignore[arg-type]
        score = functools.partial(self.trainer.compute_ref_log_probs, self.trainer.ref_model)
        parts = [score(self.trainer._prepare_inputs(batch)) for batch in loader]
        return torch.cat([torch.cat([part[side] for part in parts]) for side in (0, 1)]).float().cpu().numpy()

    def ours(self) -> np.ndarray:
        device = self.model.device
        return score_completions(self.model, self.completions, token_budget=self.token_budget, device=device).logps


def tokens_run(model: PreTrainedModel, score: Callable[[], np.ndarray], contest: Contest) -> float:
    """Return the tokens that a model is run on, padding included, over real tokens."""
    with counted_tokens(model, training=False) as counts:
        score()
    return sum(counts) / sum(len(completion) for completion in contest.completions)


def benchmark(quick: bool) -> list[Claim]:
    claims = []
    batches, repetitions = ((1, DEFAULT_BATCH), 1) if quick else (BATCHES, 5)
    for vocabulary, count in (QUICK_PAIRS if quick else PAIRS).items():
        contest = make_contest(vocabulary, count)
        np.testing.assert_allclose(contest.ours(), contest.peer(DEFAULT_BATCH), rtol=2e-5)
        runs = {"ours": contest.ours, **{f"trl {b}": functools.partial(contest.peer, b) for b in batches}}
        seconds = interleave(runs, repetitions)
        best = min(batches, key=lambda b: seconds[f"trl {b}"])
        for label, batch, required in (
            ("default batch 8", DEFAULT_BATCH, REQUIRED_AT_DEFAULT),
            (f"its best, batch {best}", best, REQUIRED_AT_BEST),
        ):
            claims.append(
                rate_claim(
                    f"scoring, vocabulary {vocabulary:,}: TRL at {label}",
                    ours=count / seconds["ours"],
                    peer=count / seconds[f"trl {batch}"],
                    unit="pairs/s",
                    required=required,
                )
            )
            claims.append(
                cost_claim(
                    f"tokens run when scoring, TRL at batch {batch}",
                    ours=tokens_run(contest.model, contest.ours, contest),
                    peer=tokens_run(contest.trainer.ref_model, runs[f"trl {batch}"], contest),
                    unit="run/real",
                )
            )
        ours, peer = (harness.run_in_child("scoring", vocabulary, count, batch) for batch in (0, best))
        claims.append(
            cost_claim(
                f"scoring, vocabulary {vocabulary:,}: peak memory, TRL at batch {best}",
                ours=ours,
                peer=peer,
                unit="MiB",
                required=1.0,
            )
        )
    return claims


def make_contest(vocabulary: int, pairs: int) -> Contest:
    return Contest(functools.partial(make_policy, vocabulary), make_pairs(pairs, vocabulary))


def added_memory(vocabulary: int, pairs: int, batch_size: int) -> float:
    """Return MiB that scoring adds to this process; TRL's at `batch_size`, ours at 0."""
    contest = make_contest(vocabulary, pairs)
    return peak_memory_added(lambda: contest.peer(batch_size) if batch_size else contest.ours())


if __name__ == "__main__":
    harness.run(benchmark, name="scoring", in_child=added_memory)
