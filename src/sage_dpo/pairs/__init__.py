"""Preference pairs: from the policy's own verified samples, or from preference data sets in TRL's formats."""

from sage_dpo.pairs.build import PairBuild, build_pairs
from sage_dpo.pairs.preference_data import PreferenceData, load_preference_data
from sage_dpo.pairs.preference_stream import PreferenceStream, open_preferences
from sage_dpo.pairs.tokenization import PairTokenizer, preference_rows, tokenize_preferences

__all__ = [
    "PairBuild",
    "PairTokenizer",
    "PreferenceData",
    "PreferenceStream",
    "build_pairs",
    "load_preference_data",
    "open_preferences",
    "preference_rows",
    "tokenize_preferences",
]
