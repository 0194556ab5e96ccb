"""Preference pairs: from the policy's own verified samples, or from preference data sets in TRL's formats."""

from sage_dpo.pairs.build import PairBuild, build_pairs
from sage_dpo.pairs.preference_data import load_preference_data, tokenize_preferences

__all__ = ["PairBuild", "build_pairs", "load_preference_data", "tokenize_preferences"]
