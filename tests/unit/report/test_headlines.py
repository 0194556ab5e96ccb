"""The comparisons drawn together from published results."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_dpo.errors import DataError
from sage_dpo.report.headlines import HEADLINES, headlines
from sage_dpo.storage import read_json, write_json

RESULTS = Path(__file__).parents[3] / "results"


def arm(tokens: float) -> dict:
    return {"train_tokens": [2 * tokens, 2 * tokens], "best": {"train_tokens": [tokens, 3 * tokens]}}


def write_studies(folder: Path, **changes) -> None:
    difference = {"mean": 0.125, "low": -0.01, "high": 0.26, "values": [0.2, 0.05]}
    comparison = {"sage_minus_dpo_full": difference, "sage_minus_dpo_random": difference}
    for study in {study for study, *_ in HEADLINES.values()}:
        result = {
            "seeds": [1, 2],
            "comparisons": {"tuned": comparison, "no_stop": comparison},
            "arms": {"sage": arm(10.0), "sage_same_rate": arm(10.0), "dpo_full": arm(80.0)},
        }
        write_json(folder / f"{study}.json", {**result, **changes.get(study.replace("-", "_"), {})})


def test_headlines_are_points_and_ratios_of_the_outcomes_compared(tmp_path):
    write_studies(tmp_path)
    found = headlines(tmp_path)
    assert found["seeds"] == [1, 2]
    assert list(found["comparisons"]) == list(HEADLINES)
    assert found["comparisons"]["present/fixed_tuned"]["sage_minus_dpo_full"] == {"mean": 12.5, "low": -1, "high": 26}
    assert found["token_ratio"]["present/fixed_tuned"] == 20 / 160


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate_on_policy": {"seeds": [1, 3]}}, "'gate-on-policy' has seeds .1, 3., the others have .1, 2."),
        ({"gate_on_policy": {"comparisons": {}}}, "'gate-on-policy' has no comparison 'tuned'"),
    ],
)
def test_studies_that_do_not_fit_together_are_refused(tmp_path, changes, message):
    write_studies(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        headlines(tmp_path)


def test_the_published_headlines_are_those_of_the_published_results():
    assert read_json(RESULTS / "gate.json") == headlines(RESULTS)
