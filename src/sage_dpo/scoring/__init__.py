"""Forward-only scoring of completions, in length buckets under a token budget."""

from sage_dpo.scoring.batching import packed_batches, padding_ratio, token_budget_batches
from sage_dpo.scoring.cache import ReferenceCache, completion_key, model_fingerprint
from sage_dpo.scoring.memory import ScoreMemory
from sage_dpo.scoring.scorer import CompletionScores, TokenizedCompletion, as_completions, score_completions

__all__ = [
    "CompletionScores",
    "ReferenceCache",
    "ScoreMemory",
    "TokenizedCompletion",
    "as_completions",
    "completion_key",
    "model_fingerprint",
    "packed_batches",
    "padding_ratio",
    "score_completions",
    "token_budget_batches",
]
