"""Kinds of errors on stories worked by hand; costs until a quality; tuning grids."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.outcomes import outcome

from sage_dpo.costs import Costs
from sage_dpo.gym.arithmetic import Distractor, Operation, Step, Story
from sage_dpo.gym.world import generate_problems, story_of
from sage_dpo.records import PairScore, PreferencePair, Problem, Verdict, VerdictKind
from sage_dpo.run_folder import RunFolder
from sage_dpo.storage import read_records, write_records
from sage_dpo.studies.analyses import (
    CONFIDENT,
    RARE,
    UNDECIDED,
    cost_until,
    error_kind,
    kept_by_cause,
    selection_quality,
    time_to_quality,
    tuning,
)
from sage_dpo.studies.outcomes import ArmOutcome

ADD, SUBTRACT, MULTIPLY, DIVIDE = Operation


def story(start: int, *steps: tuple[Operation, int], distractor: int | None = None) -> Story:
    tempting = () if distractor is None else (Distractor(0, distractor, True),)
    return Story(start, tuple(Step(*step) for step in steps), tempting)


def answer(equations: str, number: int) -> str:
    return f"{equations} . The answer is \\boxed{{ {number} }}"


@pytest.mark.parametrize(
    ("of", "rejected", "kind"),
    [
        # odd left side: the sum, held with 0.75
        (story(7, (MULTIPLY, 3)), answer("7 * 3 = 10", 10), CONFIDENT),
        # even left side: one group too few, 0.35
        (story(8, (MULTIPLY, 3)), answer("8 * 3 = 16", 16), UNDECIDED),
        # forgotten carry, 0.3 with one digit and 0.6 with two
        (story(18, (ADD, 7)), answer("18 + 7 = 15", 15), UNDECIDED),
        (story(25, (ADD, 15)), answer("25 + 15 = 30", 30), CONFIDENT),
        # smaller from larger, 0.4 with one digit and 0.7 with two
        (story(40, (SUBTRACT, 7)), answer("40 - 7 = 47", 47), UNDECIDED),
        (story(32, (SUBTRACT, 15)), answer("32 - 15 = 23", 23), CONFIDENT),
        # somebody else's 5 is added, 0.4
        (story(12, (ADD, 2), distractor=5), answer("12 + 5 = 17 . 17 + 2 = 19", 19), UNDECIDED),
        # a slip where a misconception is offered, and one where none is
        (story(7, (MULTIPLY, 3)), answer("7 * 3 = 22", 22), RARE),
        (story(12, (ADD, 2)), answer("12 + 2 = 15", 15), RARE),
        # another step than the story's; a step left out; right steps and another answer; no text at all
        (story(12, (ADD, 2)), answer("12 - 2 = 10", 10), RARE),
        (story(12, (ADD, 2), (ADD, 3)), answer("12 + 2 = 14", 14), RARE),
        (story(12, (ADD, 2)), answer("12 + 2 = 14", 13), RARE),
        (story(12, (ADD, 2)), "", RARE),
        # the first wrong step decides: undecided before confident, and a right step before it does not matter
        (story(8, (MULTIPLY, 3), (SUBTRACT, 15)), answer("8 * 3 = 16 . 16 - 15 = 1", 1), UNDECIDED),
        (story(30, (ADD, 2), (SUBTRACT, 15)), answer("30 + 2 = 32 . 32 - 15 = 23", 23), CONFIDENT),
    ],
)
def test_error_kinds_by_hand(of: Story, rejected: str, kind: str) -> None:
    assert error_kind(of, rejected) == kind


def test_no_answer_is_a_rare_error_in_every_story() -> None:
    kinds = {error_kind(story_of(problem), "I do not know") for problem in generate_problems("train", 60, seed=5)}
    assert kinds == {RARE}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """One problem 7 * 3, five pairs: a confident error twice, a slip, a wrong label, a reference solution."""
    problem = next(p for p in generate_problems("train", 200, seed=0) if odd_product_only(p))
    of = story_of(problem)
    left, factor = of.start, of.steps[0].operand
    right, held, slip = (answer(f"{left} * {factor} = {n}", n) for n in (left * factor, left + factor, 0))
    samples = {-1: right, 0: right, 1: held, 2: slip}
    of_pair = {"a": (0, 1), "b": (0, 1), "c": (0, 2), "d": (1, 0), "e": (-1, 1)}
    pairs = [
        PreferencePair(
            name, problem.id, (1,), (2,), (3,), "", samples[chosen], samples[rejected], 0.5, chosen, rejected
        )
        for name, (chosen, rejected) in of_pair.items()
    ]
    kinds = (VerdictKind.CORRECT, VerdictKind.WRONG, VerdictKind.WRONG)
    verdicts = [Verdict(problem.id, sample, kind) for sample, kind in enumerate(kinds)]
    folder = RunFolder(tmp_path)
    write_records(folder.problems("train"), [problem], Problem)
    write_records(folder.first_pool.pairs, pairs, PreferencePair)
    write_records(folder.first_pool.verdicts, verdicts, Verdict)
    return folder


def odd_product_only(problem: Problem) -> bool:
    of = story_of(problem)
    return len(of.steps) == 1 and of.steps[0].operation is MULTIPLY and of.start % 2 == 1


def log_candidates(run: RunFolder, arm: str, version: int, kept: str, dropped: str) -> None:
    rows = [
        PairScore(0, name, "p", "", *(math.nan,) * 5, name in kept, version)  # type: ignore[arg-type]
        for name in kept + dropped
    ]
    write_records(run.arm(arm).refresh(version).scores, rows, PairScore)


def test_precision_and_recall_of_the_kept_pairs_by_hand(run: RunFolder) -> None:
    log_candidates(run, "sage", 0, kept="ac", dropped="bd")
    log_candidates(run, "random", 0, kept="acd", dropped="")
    result = selection_quality([outcome(arm, folder=run.arm(arm)) for arm in ("sage", "random")])
    means = {arm: {name: entry["mean"] for name, entry in result[arm]["0"].items()} for arm in result}
    # sage keeps a, c of a, b, c, d: of 2 kept 1 is confident; of 4 drawn 2 are, of which 1 is kept; d is mislabelled
    assert means["sage"] == {
        "precision": 1 / 2, "base_rate": 2 / 4, "recall": 1 / 2, "mislabelled": 0.0, "mislabelled_base": 1 / 4,
    }  # fmt: skip
    # random keeps a, c, d of a, c, d
    assert means["random"] == pytest.approx(
        {"precision": 1 / 3, "base_rate": 1 / 3, "recall": 1.0, "mislabelled": 1 / 3, "mislabelled_base": 1 / 3}
    )


def test_recall_is_absent_where_no_confident_error_was_drawn(run: RunFolder) -> None:
    log_candidates(run, "sage", 0, kept="c", dropped="d")
    (values,) = selection_quality([outcome("sage", folder=run.arm("sage"))])["sage"].values()
    assert "recall" not in values
    assert values["precision"] == {"mean": 0.0, "low": None, "high": None}


def test_an_arms_own_pool_is_read_where_it_was_refreshed(run: RunFolder) -> None:
    own = run.arm("sage").refresh(1)
    own.root.mkdir(parents=True)
    run.first_pool.pairs.rename(own.pairs)
    run.first_pool.verdicts.rename(own.verdicts)
    log_candidates(run, "sage", 1, kept="a", dropped="d")
    result = selection_quality([outcome("sage", folder=run.arm("sage"))])
    assert result["sage"]["1"]["precision"]["mean"] == 1.0


def test_a_wrong_label_is_what_the_verifier_found_of_the_chosen_answer(run: RunFolder) -> None:
    # the texts of d are wrong and right; with a verdict that calls its chosen one right, d is an error like any other
    path = run.first_pool.verdicts
    write_records(path, [replace(v, kind=VerdictKind.CORRECT) for v in read_records(path, Verdict)], Verdict)
    log_candidates(run, "sage", 0, kept="ad", dropped="")
    values = selection_quality([outcome("sage", folder=run.arm("sage"))])["sage"]["0"]
    assert values["mislabelled"]["mean"] == 0.0


def test_a_reference_solution_as_chosen_has_no_verdict_and_is_right(run: RunFolder) -> None:
    log_candidates(run, "sage", 0, kept="e", dropped="d")
    values = selection_quality([outcome("sage", folder=run.arm("sage"))])["sage"]["0"]
    assert (values["precision"]["mean"], values["mislabelled"]["mean"]) == (1.0, 0.0)


def test_kept_shares_by_cause_by_hand(run: RunFolder) -> None:
    # a, b are odd_product, c is a slip, d's rejected answer is right and has no cause
    log_candidates(run, "sage", 0, kept="ad", dropped="bc")
    shares = kept_by_cause([outcome("sage", folder=run.arm("sage"))])["sage"]
    assert {cause: entry["mean"] for cause, entry in shares.items()} == {"odd_product": 1 / 2, "slip": 0.0}


def curve(accuracies: dict[int, float], seconds: float, flops: float = 1.0) -> list[dict[str, Any]]:
    """Probe rows; costs grow by `seconds` and `flops` a step, and are not logged before the first."""
    costs = lambda step: {"cost/seconds": seconds * step, "cost/flops": flops * step} if step else {}  # noqa: E731
    return [{"step": step, "probe/accuracy": accuracy, **costs(step)} for step, accuracy in accuracies.items()]


def trained(arm: str, accuracies: dict[int, float], *, seed: int = 0, seconds: float = 1.0) -> ArmOutcome:
    """An arm of `seconds` a step and 5 FLOP a step, after a first pool of 100 seconds and 1000 FLOP."""
    last = max(accuracies)
    return outcome(
        arm,
        seed,
        at_steps={last: 0.5},
        first_pool=Costs(wall_s=100.0, flops=1000.0),
        metrics=[*curve(accuracies, seconds, 5.0), {"step": last, "train_runtime": 1.0}],
    )


def test_cost_until_a_quality_by_hand() -> None:
    arm = trained("sage", {0: 0.4, 10: 0.5, 20: 0.7, 30: 0.6}, seconds=2.0)
    assert cost_until(arm, 0.5, "seconds") == 100 + 2 * 10
    assert cost_until(arm, 0.6, "seconds") == 100 + 2 * 20
    assert cost_until(arm, 0.7, "flops") == 1000 + 5 * 20


def test_a_quality_never_reached_has_no_cost() -> None:
    assert cost_until(trained("sage", {0: 0.4, 10: 0.5}), 0.51, "seconds") is None


def test_what_the_untrained_policy_can_do_is_not_counted_as_reached() -> None:
    assert cost_until(trained("sage", {0: 0.9, 10: 0.5}), 0.8, "flops") is None


def ttq(outcomes: list[ArmOutcome], seeds: list[int]) -> dict[str, Any]:
    return time_to_quality(outcomes, seeds, reference="dpo_full", subject="sage")


def test_time_to_quality_by_hand() -> None:
    # dpo_full is best at step 20: 100 + 5 * 20 s, 1000 + 5 * 20 FLOP; sage is there at step 10: 100 + 30 * 10 s
    outcomes = [
        trained("dpo_full", {0: 0.4, 10: 0.5, 20: 0.7, 30: 0.6}, seconds=5.0),
        trained("sage", {0: 0.4, 10: 0.7, 20: 0.6}, seconds=30.0),
    ]
    result = ttq(outcomes, [0])
    assert result["reference"] == "dpo_full"
    assert result["targets"] == [0.7]
    row = result["arms"]["sage"]
    assert row["wall_ratio"] == result["wall_ratio"] == pytest.approx((100 + 300) / (100 + 100))
    assert row["flops_ratio"] == result["flops_ratio"] == pytest.approx((1000 + 50) / (1000 + 100))
    assert (row["reached"], row["seeds"]) == (1, 1)
    assert row["wall_interval"] is None


def test_time_to_a_fixed_level_by_hand() -> None:
    # 0.8: dpo_full at step 20, sage at step 10; 0.9: sage at step 20, dpo_full never
    outcomes = [
        trained("dpo_full", {0: 0.4, 10: 0.7, 20: 0.85}, seconds=10.0),
        trained("sage", {0: 0.4, 10: 0.8, 20: 0.95}, seconds=10.0),
    ]
    levels = ttq(outcomes, [0])["levels"]
    assert levels["0.8"]["sage"]["wall_ratio"] == pytest.approx((100 + 100) / (100 + 200))
    assert levels["0.9"]["sage"]["wall_ratio"] is None
    assert levels["0.9"]["sage"]["reached"] == 0


def test_ratios_are_geometric_means_over_seeds() -> None:
    outcomes = [
        *(trained("dpo_full", {0: 0.1, 10: 0.6}, seed=seed, seconds=10.0) for seed in (0, 1)),
        trained("sage", {0: 0.1, 10: 0.6}, seed=0, seconds=30.0),  # 400 / 200 = 2
        trained("sage", {0: 0.1, 10: 0.6}, seed=1, seconds=0.0),  # 100 / 200 = 1/2
    ]
    row = ttq(outcomes, [0, 1])["arms"]["sage"]
    assert row["wall_ratio"] == pytest.approx(1.0)
    # logs +-log 2: s / sqrt(2) = log 2, t(1) = 12.7062
    assert row["wall_interval"] == pytest.approx([2**-12.7062, 2**12.7062], rel=1e-4)
    assert row["flops_ratio"] == pytest.approx(1.0)


def test_there_is_no_ratio_unless_every_seed_reached_the_target() -> None:
    outcomes = [
        *(trained("dpo_full", {0: 0.1, 10: 0.6}, seed=seed) for seed in (0, 1)),
        *(trained("never", {0: 0.1, 10: 0.5}, seed=seed) for seed in (0, 1)),
        *(trained("once", {0: 0.1, 10: 0.5 + 0.1 * seed}, seed=seed) for seed in (0, 1)),
    ]
    result = ttq(outcomes, [0, 1])["arms"]
    ratios = ("wall_ratio", "wall_interval", "flops_ratio", "flops_interval")
    assert result["never"] == {"reached": 0, "seeds": 2, **dict.fromkeys(ratios)}
    assert result["once"] == {"reached": 1, "seeds": 2, **dict.fromkeys(ratios)}


def test_arms_without_metrics_are_no_part_of_time_to_quality() -> None:
    outcomes = [outcome("vanilla"), trained("dpo_full", {0: 0.1, 10: 0.6}), trained("sage", {0: 0.1, 10: 0.6})]
    assert set(ttq(outcomes, [0])["arms"]) == {"sage"}


def test_tuning_by_hand() -> None:
    probes = {0.1: ([0.5, 0.8], [0.7, 0.6]), 0.2: ([0.9, 0.4], [0.5, 0.2])}
    outcomes = [
        outcome(f"sage@{value:g}", seed, value=value, metrics=curve({0: 0.1, 10: first, 20: second}, 1.0))
        for value, series in probes.items()
        for seed, (first, second) in enumerate(series)
    ]
    table = tuning([outcome("vanilla"), *outcomes])
    assert list(table) == ["sage"]
    # means over seeds: 0.1 -> (0.6, 0.7), 0.2 -> (0.7, 0.3); step 0 is not tuned
    assert table["sage"]["probe_accuracy"]["0.1"] == pytest.approx({"10": 0.6, "20": 0.7})
    assert table["sage"]["probe_accuracy"]["0.2"] == pytest.approx({"10": 0.7, "20": 0.3})
    assert table["sage"]["best_at_step"] == {"10": 0.2, "20": 0.1}
    best = table["sage"]["best"]
    assert best["probe_accuracy"] == pytest.approx(0.7)
    assert (best["value"], best["step"]) in {(0.1, 20), (0.2, 10)}
