"""The files of a run and of a study: every path has its name here.

    runs/<name>/config.yaml manifest.json summary.json
    runs/<name>/problems/{train,probe}.parquet
    runs/<name>/first-pool/{completions,verdicts,pairs}.parquet info.json            pool version 0, of all arms
    runs/<name>/arms/<arm>/refresh-NNN/{completions,verdicts,pairs,scores}.parquet info.json
    runs/<name>/arms/<arm>/{metrics.jsonl,checkpoints/,policy/,evaluation/<suite>.{parquet,json}}
    runs/<name>/arms/<arm>/at-NNNNNN/{<suite>.{parquet,json},costs.json}             suites on the way
    runs/<name>/arms/<arm>/best/{<suite>.{parquet,json},policy-NNNNNN/}              those of the best probe
    runs/<name>/report/{index.html,table.md}
    runs/studies/<name>/<condition>/{seed-N/,seed-N.yaml,seed-N.log}                 seed-N/ is a run folder
    runs/studies/<name>/{results.json,table.md,index.html,plots/}

A `RunFolder` only knows and reads; it makes no file. Which stages are complete is written by `manifest.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_dpo.storage import read_json

FIRST_POOL = "first-pool"
"""The pool of the untuned policy, which all arms share: its folder, its stage, its part of the seconds."""

FIRST_PROBE = "first-probe"
"""The stage that probes the untuned policy."""


def journal_path(completions: Path, process: int = 0) -> Path:
    """Where a process keeps its part of a file of completions as they come."""
    return completions.with_name(f"{completions.stem}.partial{f'-{process}' if process else ''}.jsonl")


def journal_paths(completions: Path) -> list[Path]:
    """Those that are there, of any number of processes."""
    name = re.compile(rf"{re.escape(completions.stem)}\.partial(-\d+)?\.jsonl")
    return sorted(path for path in completions.parent.glob("*.jsonl") if name.fullmatch(path.name))


def lock_path(completions: Path) -> Path:
    """What keeps other processes away from a file of completions that is no run's, while it is sampled."""
    return completions.with_name(f"{completions.stem}.partial.lock")


@dataclass(frozen=True)
class PoolFolder:
    """One version of an arm's pool: what was sampled, how it was graded, the pairs made of it, their scores."""

    root: Path

    @property
    def completions(self) -> Path:
        return self.root / "completions.parquet"

    def journal(self, process: int = 0) -> Path:
        """Completions of a process as they come; deleted when the pool is complete."""
        return journal_path(self.completions, process)

    def journals(self) -> list[Path]:
        """Those of all processes."""
        return journal_paths(self.completions)

    @property
    def served_policy(self) -> Path:
        """Weights for servers to load, while they sample."""
        return self.root / "served-policy"

    @property
    def verdicts(self) -> Path:
        return self.root / "verdicts.parquet"

    @property
    def pairs(self) -> Path:
        return self.root / "pairs.parquet"

    @property
    def scores(self) -> Path:
        """Every candidate drawn from this version."""
        return self.root / "scores.parquet"

    @property
    def info(self) -> Path:
        return self.root / "info.json"


@dataclass(frozen=True)
class SuitesFolder:
    """The suites run on one policy: `<suite>.json` and `<suite>.parquet` of each."""

    root: Path

    def result(self, suite: str) -> Path:
        return self.root / f"{suite}.json"

    def results(self) -> list[Path]:
        """Results of the suites that were run."""
        return [path for path in sorted(self.root.glob("*.json")) if path != self.costs]

    @property
    def lock(self) -> Path:
        """What keeps other processes away from a folder that is no run's."""
        return self.root / "evaluate.lock"

    @property
    def costs(self) -> Path:
        """What the policy had cost by then; of suites on the way."""
        return self.root / "costs.json"


@dataclass(frozen=True)
class ArmFolder:
    """One arm of a run."""

    run: RunFolder
    name: str

    @property
    def root(self) -> Path:
        return self.run.arms_root / self.name

    @property
    def stage(self) -> str:
        """Name of its training in the manifest."""
        return f"arms/{self.name}/train"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def candidates(self) -> Path:
        """The trainer's log of candidates, by step."""
        return self.checkpoints / "candidates"

    @property
    def policy(self) -> Path:
        return self.root / "policy"

    @property
    def whole_policy(self) -> Path:
        """A policy that is spread over processes, on its way to where it is sampled from; deleted at once."""
        return self.root / "whole-policy"

    @property
    def evaluation(self) -> SuitesFolder:
        return SuitesFolder(self.root / "evaluation")

    def milestone(self, step: int) -> SuitesFolder:
        """Suites run on the way, after `step` optimizer steps."""
        return SuitesFolder(self.root / f"at-{step:06d}")

    def milestones(self) -> dict[int, SuitesFolder]:
        return {step: self.milestone(step) for step in _numbers(self.root, r"at-(\d+)")}

    @property
    def best(self) -> SuitesFolder:
        """Suites run on the policy of the best probe, where that is not the last."""
        return SuitesFolder(self.root / "best")

    def best_policy(self, step: int) -> Path:
        """The policy of the probe after `step` optimizer steps, the best so far."""
        return self.best.root / f"policy-{step:06d}"

    def best_policies(self) -> dict[int, Path]:
        return {step: self.best_policy(step) for step in _numbers(self.best.root, r"policy-(\d+)")}

    def refresh(self, version: int) -> PoolFolder:
        """What the arm itself wrote of a pool version; of version 0 the scores only."""
        return PoolFolder(self.root / f"refresh-{version:03d}")

    def refreshes(self) -> dict[int, PoolFolder]:
        """The versions of which the arm has written something, in order."""
        return {version: self.refresh(version) for version in _numbers(self.root, r"refresh-(\d+)")}

    def pool(self, version: int) -> PoolFolder:
        """Where the pairs of a pool version are: version 0 is the first pool."""
        return self.refresh(version) if version else self.run.first_pool


def _numbers(root: Path, pattern: str) -> list[int]:
    """Numbers of the folders whose whole name matches."""
    matches = [re.fullmatch(pattern, path.name) for path in root.glob("*")]
    return sorted(int(match[1]) for match in matches if match)


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, to be read: nothing is written or checked by naming it."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def summary(self) -> Path:
        """Written last: a run with a summary is complete."""
        return self.root / "summary.json"

    @property
    def page(self) -> Path:
        return self.root / "report" / "index.html"

    @property
    def table(self) -> Path:
        return self.root / "report" / "table.md"

    def problems(self, name: str) -> Path:
        """`train` or `probe`."""
        return self.root / "problems" / f"{name}.parquet"

    def overlap(self, name: str) -> Path:
        return self.root / "problems" / f"{name}-overlap.json"

    @property
    def first_pool(self) -> PoolFolder:
        return PoolFolder(self.root / FIRST_POOL)

    @property
    def arms_root(self) -> Path:
        return self.root / "arms"

    def arm(self, name: str) -> ArmFolder:
        return ArmFolder(self, name)

    def arms(self) -> dict[str, ArmFolder]:
        """The arms that have a folder, by name."""
        return {path.name: self.arm(path.name) for path in sorted(self.arms_root.glob("*")) if path.is_dir()}

    @property
    def has_parts(self) -> bool:
        """Whether anything of a run is there."""
        return any(p.exists() for p in (self.manifest, self.summary, self.first_pool.root, self.arms_root))

    def stages(self) -> dict[str, dict[str, Any]]:
        """What each complete stage recorded about itself.

        Raises:
            DataError: no manifest.
        """
        return {name: stage["info"] for name, stage in read_json(self.manifest)["stages"].items()}

    def changes(self, config_text: str) -> list[str]:
        """Return the lines by which a configuration differs from that of the run; empty if it is the same."""
        old = self.config.read_text(encoding="utf-8") if self.config.is_file() else ""
        if old == config_text:
            return []
        lines = old.splitlines()
        return [line.strip() for line in config_text.splitlines() if line not in lines] or ["keys removed"]


@dataclass(frozen=True)
class StudyFolder:
    """A study's folder: its runs, named `<condition>/seed-N`, and what they say together."""

    root: Path

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.root / name)

    def recipe(self, name: str) -> Path:
        """The recipe of a run."""
        return self.root / f"{name}.yaml"

    def log(self, name: str) -> Path:
        """What a run printed."""
        return self.root / f"{name}.log"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def table(self) -> Path:
        return self.root / "table.md"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    def plot(self, name: str) -> Path:
        return self.root / "plots" / f"{name}.svg"
