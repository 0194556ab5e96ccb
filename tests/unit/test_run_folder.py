"""Names of a run's files, and what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_dpo.errors import DataError
from sage_dpo.run_folder import RunFolder
from sage_dpo.storage import write_json, write_text


def test_naming_a_run_makes_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert not folder.has_parts
    assert folder.arms() == folder.arm("sage").refreshes() == folder.arm("sage").milestones() == {}
    assert not (tmp_path / "run").exists()


def test_every_arm_starts_from_the_first_pool_and_keeps_its_own_scores_of_it() -> None:
    folder = RunFolder(Path("run"))
    arm = folder.arm("sage")
    assert arm.pool(0) == folder.arm("dpo_full").pool(0) == folder.first_pool
    assert arm.pool(1) == arm.refresh(1)
    assert arm.refresh(0).scores == Path("run/arms/sage/refresh-000/scores.parquet")


def test_refreshes_and_milestones_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    arm = RunFolder(tmp_path).arm("sage")
    for number in (1000, 2, 101):
        arm.refresh(number).root.mkdir(parents=True)
        arm.milestone(number).root.mkdir()
    (arm.root / "refresh-old").mkdir()
    assert list(arm.refreshes()) == list(arm.milestones()) == [2, 101, 1000]


def test_policies_of_the_best_probes_are_no_suites(tmp_path: Path) -> None:
    arm = RunFolder(tmp_path).arm("sage")
    assert arm.best_policies() == {}
    for step in (20, 100):
        arm.best_policy(step).mkdir(parents=True)
    write_json(arm.best.result("short"), {})
    assert list(arm.best_policies()) == [20, 100]
    assert [path.stem for path in arm.best.results()] == ["short"]


def test_costs_are_no_suite(tmp_path: Path) -> None:
    milestone = RunFolder(tmp_path).arm("sage").milestone(5)
    for path in (milestone.result("short"), milestone.result("long"), milestone.costs):
        write_json(path, {})
    assert [path.stem for path in milestone.results()] == ["long", "short"]


def test_stages_are_read_with_what_they_recorded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(DataError, match=r"manifest\.json does not exist"):
        folder.stages()
    write_json(folder.manifest, {"stages": {"problems": {"seconds": 1.0, "info": {"train": 3}}}})
    assert folder.stages() == {"problems": {"train": 3}}


@pytest.mark.parametrize(
    ("new", "changes"),
    [("a: 1\nb:\n  c: 2\n", []), ("a: 1\nb:\n  c: 3\n", ["c: 3"]), ("a: 1\n", ["keys removed"])],
)
def test_changes_of_the_configuration_are_its_new_lines(new: str, changes: list[str], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_text(folder.config, "a: 1\nb:\n  c: 2\n")
    assert folder.changes(new) == changes
