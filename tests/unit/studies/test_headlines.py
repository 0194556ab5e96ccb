"""The comparisons drawn together from published results."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_dpo.errors import DataError
from sage_dpo.storage import read_json, write_json
from sage_dpo.studies.headlines import HEADLINES, headlines

RESULTS = Path(__file__).parents[3] / "results"


def arm(average: float, tokens: float) -> dict:
    end = {"average": [average, average], "train_tokens": [2 * tokens, 2 * tokens]}
    return {**end, "best": {"average": [average + 0.1, average + 0.3], "train_tokens": [tokens, 3 * tokens]}}


def write_studies(folder: Path, *, without: str = "", other_seeds: str = "") -> None:
    labels = {label for outcomes in HEADLINES.values() for label in outcomes.values()}
    for study in {label.split("/")[0] for label in labels}:
        arms = {label.split("/")[1].split(":")[0] for label in labels if label.startswith(f"{study}/")}
        result = {
            "seeds": [1, 3] if study == other_seeds else [1, 2],
            "arms": {
                name: arm(0.8, 10.0) if name.startswith("sage") else arm(0.5, 80.0)
                for name in arms
                if f"{study}/{name}" != without
            },
        }
        write_json(folder / f"{study}.json", result)


def test_headlines_are_points_and_ratios_of_the_outcomes_compared(tmp_path):
    write_studies(tmp_path)
    found = headlines(tmp_path)
    assert found["seeds"] == [1, 2]
    assert list(found["comparisons"]) == list(HEADLINES)
    assert found["comparisons"]["present/fixed_tuned"]["sage_minus_dpo_full"] == {"mean": 30, "low": 30, "high": 30}
    # 0.9 and 1.1 at the best probe against 0.5: 40 and 60 points, of which the interval is 50 +- 12.706 * 10
    on_policy = found["comparisons"]["present/on_policy_tuned"]["sage_minus_dpo_random"]
    assert on_policy == pytest.approx({"mean": 50, "low": 50 - 127.062, "high": 50 + 127.062}, abs=0.01)
    assert found["token_ratio"]["present/fixed_no_stop"] == 20 / 160


def test_results_that_do_not_fit_together_are_refused(tmp_path):
    write_studies(tmp_path, other_seeds="gate-hard-fixed")
    with pytest.raises(DataError, match="'harder/fixed_tuned' draws on studies of different seeds"):
        headlines(tmp_path)
    write_studies(tmp_path, without="main/dpo_random")
    with pytest.raises(DataError, match="results of study 'main' have no 'dpo_random'"):
        headlines(tmp_path)


def test_the_published_headlines_are_those_of_the_published_results():
    assert read_json(RESULTS / "gate.json") == headlines(RESULTS)
