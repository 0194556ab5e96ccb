"""Preference pairs: from the policy's own verified samples, or from preference data sets in TRL's formats."""

from sage_dpo.pairs.build import PairBuild, build_pairs
from sage_dpo.pairs.preference_data import PreferenceData, load_preference_data
from sage_dpo.pairs.tokenization import preference_rows, tokenize_preferences

__all__ = [
    "PairBuild",
    "PreferenceData",
    "build_pairs",
    "load_preference_data",
    "preference_rows",
    "tokenize_preferences",
]
