"""Code in the docs runs, and what the docs name exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from sage_dpo.cli import app
from sage_dpo.selectors import Candidates, CandidateScores, SelectorSettings, make_selector, registry

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding_a_selector.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES.remove(ROOT / "docs" / "log.md")  # history
FOLDERS = "benchmarks|docs|examples|recipes|results|src|tests"


def test_the_selector_of_the_docs_ranks_as_they_say(monkeypatch):
    monkeypatch.setattr(registry, "SELECTORS", dict(registry.SELECTORS))
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    assert len(block.splitlines()) <= 20
    exec(compile(block, str(PAGE), "exec"), {})
    selector = make_selector(SelectorSettings(selector="far_from_the_boundary"))
    margins = np.array([0.1, -3.0, 2.0, -0.2])
    scores = CandidateScores(margins, np.zeros(4), np.ones(4), np.ones(4))
    assert selector.select(Candidates(4, np.random.default_rng(0), scores), 2).kept.tolist() == [1, 2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    modules = {path for path in re.findall(r"`((?:\w+/)+\w+\.py)`", text) if not (ROOT / path).is_file()}
    assert [path for path in sorted(modules) if not (ROOT / "src" / "sage_dpo" / path).is_file()] == []
    paths = re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*\w)", text)
    links = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) if not (page.parent / link).exists()]
    assert [path for path in paths if not (ROOT / path).exists()] + links == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page):
    known = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in [path.stem, *re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))]
    }
    assert set(re.findall(r"`(test_\w+)(?:\.py)?`", page.read_text(encoding="utf-8"))) <= known


def test_every_page_is_in_the_index_and_the_menu():
    names = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert names <= set(re.findall(r"(?m)^\| \[[^]]+\]\((\w+\.md)\) \|", index))
    assert names <= set(re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))


def test_the_layout_names_every_package_and_module():
    layout = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    named = set(re.findall(r"(?m)^  (\w+)(?:/|\.py) ", layout))
    there = {path.stem for path in (ROOT / "src" / "sage_dpo").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert named == there - {"__init__", "__main__", "__pycache__"}


def test_the_commands_of_the_readme_are_targets_and_ci_runs_the_one_for_tests():
    targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))
    for page in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"(?m)^make ([\w-]+)", (ROOT / page).read_text(encoding="utf-8"))) <= set(targets)
    assert "make test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_figures_of_the_readmes_table_are_those_of_the_results():
    rows = re.findall(r"(?m)^\| (?:fixed|on-policy|hard) .*$", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(rows) == 5
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").replace("−", "-")
    for estimate, low, high in re.findall(r"([+-][\d.]+) \(([+-]?[\d.]+) to ([+-]?[\d.]+)\)", "".join(rows)):
        signed = [bound if bound[0] in "+-" else f"+{bound}" for bound in (low, high)]
        assert f"| {estimate} | {signed[0]} to {signed[1]} |" in results
    for accuracy in re.findall(r"\| (?:\*\*)?(\d\d\.\d)", "".join(rows)):
        assert f"| {accuracy} ± " in results


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?m)(?:`|^ {4}|^|\| )sage-dpo (\w+)", text))
    assert named <= set(get_command(app).commands)
    modules = set(re.findall(r"python -m ((?:sage_dpo|benchmarks)(?:\.\w+)+)", text))
    assert [name for name in sorted(modules) if not importlib.util.find_spec(name)] in ([], ["benchmarks.NAME"])
