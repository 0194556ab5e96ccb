"""A study's tables and page say what its `results.json` says, whatever is missing from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sage_dpo.report.figure import NEUTRAL
from sage_dpo.report.study import format_study, study_markdown, write_study_report
from sage_dpo.report.study_plots import study_plots
from sage_dpo.report.study_tables import mean_text, study_tables
from sage_dpo.report.tables import Table
from sage_dpo.storage import write_json


def arm(*average: float | None, value: float | None = None, origin: str = "", **changes: Any) -> dict[str, Any]:
    seeds = len(average)
    values = {
        "average": list(average),
        "suites": {} if None in average else {"short": list(average), "long": [0.25] * seeds},
        "train_tokens": [1_000.0] * seeds,
        "scored_tokens": [2_500.0] * seeds,
        "reference_tokens": [500.0] * seeds,
        "generated_tokens": [0.0] * seeds,
        "wall_s": [90.0] * seeds,
        "flops": [2.5e12] * seeds,
        "origin": origin,
        "value": value,
        "learning_rate": 1e-4,
        "steps": 4,
        "at_steps": {"4": then(*average)},
        "probe": [],
    }
    return {**values, **changes}


def then(*average: float | None) -> dict[str, Any]:
    """An arm on the way: a tenth of the costs of `arm`."""
    costs = {"train_tokens": 100.0, "scored_tokens": 250.0, "reference_tokens": 50.0, "generated_tokens": 0.0}
    costs |= {"wall_s": 9.0, "flops": 2.5e11}
    return {"average": list(average), **{name: [cost] * len(average) for name, cost in costs.items()}}


def untrained(*average: float | None) -> dict[str, Any]:
    return arm(*average, steps=0, learning_rate=None, at_steps={})


def condition(name: str = "base", x: float | None = None, **arms: dict[str, Any]) -> dict[str, Any]:
    return {"condition": name, "x": x, "policy": "gym:S", "seeds": [1, 2], "arms": arms, "comparisons": {}}


def study(first: dict[str, Any], *others: dict[str, Any], axis: str = "", **changes: Any) -> dict[str, Any]:
    head = {"study": "s", "title": "A study", "command": "sage-dpo study s.yaml", "axis": axis}
    return {**head, **first, "conditions": list(others), **changes}


TWO_ARMS = condition(vanilla=untrained(0.4, 0.4), sage=arm(0.5, 0.6))


def table(result: dict[str, Any], start: str) -> Table:
    (found,) = [one for one in study_tables(result) if one.caption.startswith(start)]
    return found


def texts(of: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in of.rows]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        # s / sqrt(2) = 0.05, t(1) = 12.7062: 63.5 points
        ([0.5, 0.6], "55.0 ± 63.5"),
        ([0.5, 0.5], "50.0 ± 0.0"),
        ([0.5], "50.0"),
        ([None, 0.5], "50.0"),
        ([None, None], "–"),
        ([], "–"),
    ],
)
def test_mean_over_seeds_in_percent(values: list[float | None], text: str) -> None:
    assert mean_text(values) == text


def test_one_condition_has_arms_as_rows_and_suites_as_columns() -> None:
    accuracy = table(study(TWO_ARMS), "A study")
    assert accuracy.header == ("arm", "average", "short", "long")
    assert texts(accuracy) == [
        ["vanilla", "40.0 ± 0.0", "40.0", "25.0"],
        ["sage", "55.0 ± 63.5", "55.0", "25.0"],
    ]


def test_steps_on_the_way_follow_their_arm() -> None:
    sage = arm(0.5, 0.6, at_steps={"2": then(0.3, 0.3), "4": then(0.5, 0.6)})
    names = [row[:2] for row in texts(table(study(condition(sage=sage)), "A study"))]
    assert names == [["sage", "55.0 ± 63.5"], ["sage:2", "30.0 ± 0.0"]]


def test_several_conditions_are_rows_and_their_arms_columns() -> None:
    result = study(
        condition("few", 1.0, sage=arm(0.5, 0.5)),
        condition("many", 2.0, sage=arm(0.7, 0.7), dpo=arm(0.6, 0.6)),
        condition("none", 3.0, sage=arm(None, None)),
        axis="pairs",
    )
    accuracy = table(result, "A study")
    assert accuracy.header == ("pairs", "sage", "dpo")
    assert texts(accuracy) == [["few", "50.0 ± 0.0", "–"], ["many", "70.0 ± 0.0", "60.0 ± 0.0"]]


def test_differences_are_in_points_with_every_seed() -> None:
    entry = {"mean": 0.025, "low": -0.01, "high": 0.06, "values": [0.02, 0.03]}
    single = {"mean": -0.025, "low": None, "high": None, "values": [-0.025]}
    comparisons = {"final": {"sage_minus_dpo": entry, "sage_minus_random": single}}
    assert texts(table(study(TWO_ARMS, comparisons=comparisons), "Differences")) == [
        ["final", "sage − dpo", "+2.5", "−1.0 to +6.0", "+2.0  +3.0"],
        ["final", "sage − random", "−2.5", "–", "−2.5"],
    ]


def test_costs_are_means_of_the_trained_arms() -> None:
    sage = arm(0.5, 0.6, train_tokens=[1000.0, 3000.0], wall_s=[60.0, 120.0], flops=[1e12, 4e12])
    costs = table(study(condition(vanilla=untrained(0.4, 0.4), sage=sage)), "Cost")
    assert costs.header[3:7] == ("tokens trained", "scored", "reference", "generated")
    assert texts(costs) == [["sage", "4", "0.0001", "2,000", "2,500", "500", "0", "2.50", "90.0 s"]]


def test_costs_on_the_way_follow_their_arm() -> None:
    sage = arm(0.5, 0.6, at_steps={"2": then(0.3, 0.3), "4": then(0.5, 0.6)})
    costs = table(study(condition(sage=sage)), "Cost")
    assert [row[0] for row in texts(costs)] == ["sage", "sage:2"]
    assert texts(costs)[1] == ["sage:2", "2", "0.0001", "100", "250", "50", "0", "0.25", "9.0 s"]


BEST = {**then(0.7, 0.8), "suites": {"short": [0.7, 0.8], "long": [0.5, 0.5]}, "step": [2, 3]}


def test_the_best_probe_follows_its_arm_with_its_suites_and_the_mean_of_its_steps() -> None:
    result = study(condition(sage=arm(0.5, 0.6, best=BEST)))
    assert texts(table(result, "A study"))[1] == ["sage:best", "75.0 ± 63.5", "75.0", "50.0"]
    costs = texts(table(result, "Cost"))
    assert [row[0] for row in costs] == ["sage", "sage:best"]
    assert costs[1][1:4] == ["2", "0.0001", "100"]  # (2 + 3) / 2 steps, rounded to even


def test_the_best_probe_is_a_column_of_its_own_where_conditions_are_rows() -> None:
    rows = [condition("few", sage=arm(0.5, 0.5, best=BEST), dpo=arm(0.4, 0.4)), condition("many", dpo=arm(0.3, 0.3))]
    accuracy = table(study(*rows), "A study")
    assert accuracy.header == ("condition", "sage", "sage:best", "dpo")
    assert texts(accuracy)[1] == ["many", "–", "–", "30.0 ± 0.0"]


def test_steps_of_training_that_ended_by_itself_are_those_taken() -> None:
    costs = table(study(condition(sage=arm(0.5, 0.6, stopped=[2, 4]))), "Cost")
    assert texts(costs)[0][:2] == ["sage", "3"]


def test_conditions_name_their_own_tables() -> None:
    captions = [one.caption for one in study_tables(study(TWO_ARMS, condition("more", sage=arm(0.5, 0.6))))]
    assert "Cost, means over seeds: base" in captions
    assert "Cost, means over seeds: more" in captions


def test_a_study_without_averages_still_has_its_costs() -> None:
    result = study(condition(sage=arm(None, None)))
    assert [one.caption for one in study_tables(result)] == ["Cost, means over seeds"]
    assert study_plots(result) == []
    assert "TFLOP" in study_markdown(result)


def test_time_to_quality_leaves_out_what_no_arm_reached() -> None:
    never = dict.fromkeys(("wall_ratio", "wall_interval", "flops_ratio", "flops_interval"))
    arms = {
        "sage": {"wall_ratio": 0.5, "wall_interval": [0.4, 0.6], "flops_ratio": 0.25, "flops_interval": None,
                 "reached": 1, "seeds": 2},
        "never": {**never, "reached": 0, "seeds": 2},
    }  # fmt: skip
    rows = {"reference": "dpo_full", "arms": arms, "levels": {"0.8": arms}}
    times = table(study(TWO_ARMS, time_to_quality=rows), "Time to the best probe accuracy of dpo_full")
    assert texts(times) == [["sage", "0.50 (0.40 to 0.60)", "0.25", "1 of 2"]]
    assert texts(table(study(TWO_ARMS, time_to_quality=rows), "Time to a probe accuracy of 80 %")) == texts(times)
    assert "dpo_full" in times.note


def test_selection_quality_without_recall_and_with_one_seed() -> None:
    share = lambda mean, low, high: {"mean": mean, "low": low, "high": high}  # noqa: E731
    row = {
        "precision": share(0.5, 0.4, 0.6),
        "base_rate": share(0.25, None, None),
        "mislabelled": share(0.0, 0.0, 0.0),
        "mislabelled_base": share(0.1, 0.1, 0.1),
    }
    quality = table(study(TWO_ARMS, selection_quality={"sage": {"0": row}}), "Confident errors")
    assert texts(quality) == [["sage", "0", "50.0 ± 10.0", "25.0", "–", "0.0 ± 0.0", "10.0 ± 0.0"]]


def test_gradient_noise_has_a_table_a_policy() -> None:
    row = {
        "snr": {"mean": 0.25, "low": 0.15, "high": 0.35},
        "variance": {"mean": 1234.5, "low": None, "high": None},
        "signal": {"mean": 0.0, "low": -1.0, "high": 1.0},
    }
    result = study(TWO_ARMS, gradient_noise={"untuned": {"sage": row}, "dpo_full": {"sage": row}})
    captions = [one.caption for one in study_tables(result) if one.caption.startswith("Gradient noise")]
    assert captions == ["Gradient noise at the policy untuned", "Gradient noise at the policy dpo_full"]
    assert texts(table(result, captions[0])) == [["sage", "0.25 ± 0.1", "1.23e+03", "0 ± 1"]]


def test_drift_has_a_row_an_arm() -> None:
    values = {"correct": -0.25, "wrong": -4.0, "kl": 2.0}
    row = {name: {"mean": mean, "low": mean - 0.5, "high": mean + 0.5} for name, mean in values.items()}
    found = table(study(TWO_ARMS, drift={"sage": row}), "What training did to the first answers")
    assert texts(found) == [["sage", "-0.25 ± 0.5", "-4 ± 0.5", "2 ± 0.5"]]


def test_the_best_of_a_tuning_grid_is_marked() -> None:
    entry = {
        "probe_accuracy": {"1e-05": {"10": 0.5, "20": 0.6}, "0.0001": {"10": 0.7, "20": 0.4}},
        "best": {"value": 1e-4, "step": 10, "probe_accuracy": 0.7},
        "best_at_step": {"10": 1e-4, "20": 1e-5},
    }
    grid = table(study(TWO_ARMS, tuning={"sage": entry}), "Probe accuracy of sage")
    assert grid.header == ("value", "10", "20")
    assert texts(grid) == [["1e-05", "50.0", "60.0"], ["0.0001", "70.0", "40.0"]]
    assert [cell.is_best for row in grid.rows for cell in row] == [False, False, False, False, True, False]


def sweep(*seeds_of: tuple[float, ...]) -> dict[str, Any]:
    swept = {
        f"sage@{value:g}": arm(*averages, value=value, origin="sage")
        for value, averages in zip((0.25, 0.5, 0.75), seeds_of, strict=False)
    }
    return study(condition(dpo=arm(*seeds_of[0]), **swept), axis="gamma")


def test_a_sweep_is_drawn_along_its_values() -> None:
    (plot,) = study_plots(sweep((0.5, 0.6), (0.6, 0.7), (0.55, 0.6)))
    assert plot.title == "Accuracy by gamma"
    assert [key.label for key in plot.keys] == ["dpo", "sage"]
    assert plot.panels[0].alt == "Average accuracy by gamma: sage 55.0 at 0.25, 65.0 at 0.5, 57.5 at 0.75."


def test_conditions_with_places_are_drawn_along_them_in_order() -> None:
    rows = [condition(f"c{x}", float(x), sage=arm(0.1 * x, 0.1 * x)) for x in (1, 2, 3)]
    (plot,) = study_plots(study(*rows, axis="pairs"))
    assert plot.panels[0].alt == "Average accuracy by pairs: sage 10.0 at 1, 20.0 at 2, 30.0 at 3."


def test_without_an_axis_arms_are_dots_in_one_panel_a_condition() -> None:
    result = study(TWO_ARMS, condition("more", sage=arm(0.7, 0.7)))
    (plot,) = study_plots(result)
    assert [panel.alt for panel in plot.panels] == [
        "Average accuracy in percent: sage 55.0.",
        "Average accuracy in percent: sage 70.0.",
    ]


def test_the_untuned_policy_is_left_out_of_the_dots_whatever_it_is_called() -> None:
    result = study(condition(base=untrained(0.4, 0.4), vanilla=arm(0.5, 0.6)))
    (plot,) = study_plots(result)
    assert plot.panels[0].alt == "Average accuracy in percent: vanilla 55.0."


def test_the_untuned_policy_is_grey_whatever_it_is_called() -> None:
    rows = [condition(f"c{x}", float(x), base=untrained(0.4, 0.4), vanilla=arm(0.5, 0.6)) for x in (1, 2)]
    (plot,) = study_plots(study(*rows, axis="pairs"))
    assert {key.label: key.colour == NEUTRAL for key in plot.keys} == {"base": True, "vanilla": False}


def test_probe_accuracy_is_drawn_where_it_was_measured() -> None:
    probe = [{"step": float(step), "mean": 0.5, "low": None, "high": None} for step in (0, 2, 4)]
    plots = study_plots(study(condition(vanilla=untrained(0.4, 0.4), sage=arm(0.5, 0.6, probe=probe))))
    assert [plot.title for plot in plots] == ["Accuracy of the arms", "Probe accuracy over training"]
    assert [key.label for key in plots[1].keys] == ["sage"]


@pytest.mark.parametrize(
    "result",
    [
        study(TWO_ARMS),
        study(TWO_ARMS, condition("more", sage=arm(0.7, 0.7))),
        sweep((0.5, 0.6), (0.6, 0.7)),
        sweep((0.5,), (0.6,), (0.7,)),
        study(condition(vanilla=untrained(0.4), sage=arm(0.5)), seeds=[3]),
        study(condition(sage=arm(None, None))),
    ],
    ids=["one condition", "conditions", "sweep", "sweep of one seed", "one seed", "no averages"],
)
def test_page_table_and_drawings_are_written(result: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", result)
    page = write_study_report(tmp_path).read_text(encoding="utf-8")
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8")
    for one in study_tables(result):
        for cell in (cell.text for row in one.rows for cell in row):
            assert cell in page
            assert cell in markdown
    assert "sage-dpo study s.yaml" in page
    assert "nan" not in page.lower().split()
    drawings = list((tmp_path / "plots").glob("*.svg"))
    assert len(drawings) == sum(len(plot.panels) for plot in study_plots(result))
    assert {ElementTree.parse(path).getroot().tag for path in drawings} <= {"{http://www.w3.org/2000/svg}svg"}


def test_the_terminal_gets_the_same_numbers() -> None:
    assert "55.0 ± 63.5" in format_study(study(TWO_ARMS))


def test_names_from_a_study_file_are_escaped(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", study(TWO_ARMS, title="<script>alert(1)</script>"))
    assert "<script>" not in write_study_report(tmp_path).read_text(encoding="utf-8")


def test_an_axis_may_hold_any_sign(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {**sweep((0.5, 0.6), (0.6, 0.7)), "axis": "kept / drawn: γ"})
    write_study_report(tmp_path)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["accuracy-by-kept-drawn-0.svg"]
