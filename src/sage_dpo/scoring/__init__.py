"""Scores kept: reference log-probabilities for the whole run, the policy's scores for some optimizer steps."""

from sage_dpo.scoring.cache import ReferenceCache, completion_key, model_fingerprint
from sage_dpo.scoring.memory import ScoreMemory

__all__ = ["ReferenceCache", "ScoreMemory", "completion_key", "model_fingerprint"]
