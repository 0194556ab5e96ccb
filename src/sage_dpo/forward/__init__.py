"""Forward passes over rows of unequal lengths: how they are laid out, and what is computed from them."""

from sage_dpo.forward.batching import group_by_prompt
from sage_dpo.forward.scorer import CompletionScores, TokenizedCompletion, as_completions, score_completions
from sage_dpo.forward.training_rows import remove_padding

__all__ = [
    "CompletionScores",
    "TokenizedCompletion",
    "as_completions",
    "group_by_prompt",
    "remove_padding",
    "score_completions",
]
