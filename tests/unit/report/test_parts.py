"""The parts under the page: drawing helpers, reading, choice of examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sage_dpo.config import PoolSettings
from sage_dpo.core.utility import sage_utility
from sage_dpo.report.examples import MAX_TEXT, _shorten, choose_examples
from sage_dpo.report.figure import DARK, arm_keys, drawing, evenly, new_axes, thin_line, to_panel
from sage_dpo.report.plane_plot import plane_plot
from sage_dpo.report.run import read_run
from sage_dpo.report.selection_plots import _problem_shares
from sage_dpo.run_folder import RunFolder

RunBuilder = Callable[..., Path]


@pytest.fixture(scope="module")
def run(build_run: RunBuilder) -> Path:
    return build_run(("dpo_full", "sage"), steps=4)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_arm_colours_keep_three_to_one_contrast_on_both_backgrounds() -> None:
    keys = arm_keys(["base", *(f"arm{i}" for i in range(8))], {"base"})
    for key in keys.values():
        assert contrast(key.colour, "#ffffff") >= 3.0
        assert contrast(DARK[key.colour], "#14171c") >= 3.0


def test_arms_keep_their_colour_whatever_the_untuned_policy_does_and_never_share_a_symbol() -> None:
    assert arm_keys(["base", "a", "b"], {"base"})["b"] == arm_keys(["a", "b", "base"], {"base"})["b"]
    keys = arm_keys([f"arm{i}" for i in range(40)])
    assert len({(key.colour, key.glyph) for key in keys.values()}) == 40


def test_thinning_keeps_the_mean_and_short_lines() -> None:
    steps, values = np.arange(6000.0), np.arange(6000.0) * 2
    x, y = thin_line(steps, values, limit=300)
    assert x.size == 300
    assert y.mean() == pytest.approx(values.mean())
    assert thin_line(steps[:10], values[:10])[0].tolist() == steps[:10].tolist()


def test_evenly_keeps_first_and_last() -> None:
    assert evenly(list(range(100)), 4) == [0, 33, 66, 99]
    assert evenly([3, 5], 4) == [3, 5]


def test_labels_are_escaped_and_never_read_as_mathematics() -> None:
    with drawing():
        figure, axes = new_axes()
        axes.set_title("<b>$x_1$</b> 0.123456")
        panel = to_panel(figure, salt="s", alt='say "hello"')
    assert "&lt;b&gt;$x_1$&lt;/b&gt; 0.123456" in panel.svg
    assert 'aria-label="say &quot;hello&quot;"' in panel.svg


def test_arms_share_the_first_pool_and_keep_their_own_scores(run: Path) -> None:
    data = read_run(run)
    full, sage = data.arms["dpo_full"].refreshes, data.arms["sage"].refreshes
    assert [r.version for r in full] == [r.version for r in sage] == [0, 1, 2]
    assert full[0].pairs_path == sage[0].pairs_path == RunFolder(run).first_pool.pairs
    assert full[0].scores is None
    assert sage[0].scores is not None
    assert np.array_equal(full[0].success_rates, data.first_pool.success_rates)  # type: ignore[union-attr, arg-type]


def test_success_rates_are_correct_over_sampled(run: Path) -> None:
    first = read_run(run).first_pool
    assert first is not None
    assert first.success_rates is not None
    assert first.counts["correct"] == pytest.approx(8 * first.success_rates.sum())
    assert first.counts["completions"] == 8 * first.counts["problems"]


def test_problem_shares_add_up_and_the_ends_are_apart() -> None:
    """Eight problems: 2 never, 1 hard (1/8), 2 medium (3/8, 5/8), 1 easy (7/8), 2 always."""
    rates = np.array([0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.0, 1.0])
    shares = _problem_shares(rates, PoolSettings())
    expected = {"never solved": 0.25, "hard": 0.125, "medium": 0.25, "easy": 0.125, "always solved": 0.25}
    assert shares == pytest.approx(expected)
    assert _problem_shares(np.array([0.0, 1.0]), PoolSettings()) == {"never solved": 0.5, "always solved": 0.5}


def test_recorded_utilities_lie_on_the_contours_that_are_drawn(run: Path) -> None:
    """The plane's level lines use the arm's damping; the records were made with the same formula."""
    import torch

    arm = read_run(run).arms["sage"]
    scores = arm.scored[0].scores
    assert scores is not None
    assert arm.config is not None
    expected = sage_utility(
        torch.from_numpy(scores["margin"].copy()),
        torch.from_numpy(scores["informativeness"].copy()),
        damping=arm.config.selection.damping,
    )
    assert scores["utility"] == pytest.approx(expected.numpy())


def test_plane_draws_at_most_the_points_it_is_given_and_the_same_ones_again(run: Path) -> None:
    arm = read_run(run).arms["sage"]
    with drawing():
        once = plane_plot(arm, points=90, rng=np.random.default_rng(5))
        again = plane_plot(arm, points=90, rng=np.random.default_rng(5))
    assert once == again
    assert once is not None
    assert len(once.panels) == 3
    ticks = 40
    assert all(panel.svg.count("<use ") <= 30 + ticks for panel in once.panels)
    assert "at most 30 of up to 256 candidates" in " ".join(once.notes)


def test_example_groups_hold_what_their_titles_say(run: Path) -> None:
    arm = read_run(run).arms["sage"]
    groups = {group.title: group.examples for group in choose_examples(arm, count=4)}
    scores = [refresh.scores for refresh in arm.scored if refresh.scores is not None]
    utility = np.concatenate([table["utility"] for table in scores])
    kept = np.concatenate([table["is_kept"] for table in scores]).astype(bool)
    top, low = groups["Kept, highest utility"], groups["Dropped, lowest utility"]
    assert top[0].utility == utility[kept].max()
    assert low[0].utility == utility[~kept].min()
    assert all(example.is_kept for example in top)
    assert not any(example.is_kept for example in low)
    for examples in groups.values():
        problems = [example.prompt for example in examples]
        assert len(problems) == len(set(problems)) == 4


def test_examples_nearest_the_cut_lie_between_kept_and_dropped(run: Path) -> None:
    """By hand: one step and stratum, kept S = 5, 3 and dropped S = 2, 0, has its cut at (3 + 2) / 2 = 2.5."""
    from sage_dpo.report.examples import _distance_to_cut

    scores = {"step": np.array([0, 0, 0, 0, 1]), "stratum": np.array(["easy"] * 4 + ["hard"], dtype=object)}
    kept, utility = np.array([True, True, False, False, True]), np.array([5.0, 3.0, 2.0, 0.0, 9.0])
    distance = _distance_to_cut(scores, kept, utility, within_strata=True)
    assert distance.tolist() == [2.5, 0.5, 0.5, 2.5, np.inf]


def test_long_texts_are_cut_and_the_cut_is_said() -> None:
    assert _shorten("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert str(_shorten("x" * (MAX_TEXT + 1500))).endswith("… (1,500 more characters)")
