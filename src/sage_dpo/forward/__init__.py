"""Forward passes over rows of unequal lengths: how they are laid out, and what is computed from them."""

from sage_dpo.forward.batching import packed_batches, padding_ratio, token_budget_batches
from sage_dpo.forward.scorer import CompletionScores, TokenizedCompletion, as_completions, score_completions
from sage_dpo.forward.training_rows import remove_padding

__all__ = [
    "CompletionScores",
    "TokenizedCompletion",
    "as_completions",
    "packed_batches",
    "padding_ratio",
    "remove_padding",
    "score_completions",
    "token_budget_batches",
]
