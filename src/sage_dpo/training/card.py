"""What a model card says about the method."""

from __future__ import annotations

_TITLE = (
    "Not All Preferences Are Created Equal: Stability-Aware and Gradient-Efficient Alignment for Reasoning Models"
)  # fmt: skip

PAPER = {
    "title": _TITLE,
    "id": "2602.01207",
    "citation": f"""@misc{{wu2026preferences,
    title         = {{{{{_TITLE}}}}},
    author        = {{Wu and Cai and others}},
    year          = 2026,
    eprint        = {{2602.01207}},
    archivePrefix = {{arXiv}},
}}""",
}
"""In the form of TRL's `_paper`."""
