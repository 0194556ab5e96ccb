"""What the benchmarks share, and that every benchmark can at least be asked for help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import harness
from benchmarks.harness import Claim, cost_claim, format_claims, interleave, rate_claim

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "benchmarks"
HELPERS = ("__init__", "harness", "workload", "setup")
MODULES = sorted(
    ".".join(path.relative_to(FOLDER).with_suffix("").parts)
    for path in FOLDER.rglob("*.py")
    if path.stem not in HELPERS
)


def test_ratios_say_how_many_times_better_ours_is():
    rate = rate_claim("r", ours=30.0, peer=10.0, unit="pairs/s", required=2.0)
    cost = cost_claim("c", ours=5.0, peer=10.0, unit="s", required=3.0)
    assert (rate.ratio, rate.is_met) == (3.0, True)
    assert (cost.ratio, cost.is_met) == (2.0, False)
    assert cost_claim("information", ours=2.0, peer=1.0, unit="s").is_met


def test_functions_take_turns_and_the_median_counts(monkeypatch):
    calls = []
    ticks = iter([0.0, 1.0, 10.0, 12.0, 20.0, 29.0, 30.0, 33.0, 40.0, 41.0, 50.0, 54.0])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(ticks))
    medians = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repetitions=3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert medians == {"a": 1.0, "b": 4.0}  # a: 1, 3, 1; b: 2, 9, 4


def test_table_names_what_is_not_met():
    table = format_claims([Claim("x", 1.5, 2.0, 3.0, 2.0, "s"), Claim("y", 1.0, None, 12345.0, 1.0, "s")])
    lines = table.splitlines()
    assert "not met" in lines[2]
    assert "12,345" in lines[3]
    assert "met" not in lines[3]


def test_claims_are_written_as_a_list(tmp_path, capsys):
    claim = Claim("x", 1.5, 2.0, 3.0, 2.0, "s")
    harness.run(
        lambda quick: [claim] if quick else [], name="x", arguments=["--quick", "--json", str(tmp_path / "x.json")]
    )
    assert json.loads((tmp_path / "x.json").read_text()) == [
        {"claim": "x", "ratio": 1.5, "required": 2.0, "ours": 3.0, "peer": 2.0, "unit": "s"}
    ]
    assert "--quick" in capsys.readouterr().out


def test_added_memory_is_the_peak_not_the_end():
    # In a process of its own: this one's allocator may hold what earlier tests gave back.
    program = """
import time
from benchmarks import harness

def hold():
    block = b"x" * (64 * 2**20)  # written, so that every page is there
    time.sleep(0.5)
    del block

print(harness.peak_memory_added(hold))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(64, abs=16)


@pytest.mark.parametrize("module", MODULES)
def test_every_benchmark_explains_itself(module):
    source = (FOLDER / f"{module.replace('.', '/')}.py").read_text()
    assert f'harness.run(benchmark, name="{module}"' in source
    assert f"benchmarks.{module}" in (ROOT / "docs" / "performance.md").read_text()


def test_a_wrong_flag_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pool", "--fast"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unrecognized arguments: --fast" in done.stderr
