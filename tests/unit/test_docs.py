"""Code in the docs runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from sage_dpo.selectors import Candidates, CandidateScores, SelectorSettings, make_selector, registry

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_selector.md"


def test_the_selector_of_the_docs_ranks_as_they_say(monkeypatch):
    monkeypatch.setattr(registry, "SELECTORS", dict(registry.SELECTORS))
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    assert len(block.splitlines()) <= 20
    exec(compile(block, str(PAGE), "exec"), {})
    selector = make_selector(SelectorSettings(selector="far_from_the_boundary"))
    margins = np.array([0.1, -3.0, 2.0, -0.2])
    scores = CandidateScores(margins, np.zeros(4), np.ones(4), np.ones(4))
    assert selector.select(Candidates(4, np.random.default_rng(0), scores), 2).kept.tolist() == [1, 2]
