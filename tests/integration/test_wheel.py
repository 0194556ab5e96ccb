"""A wheel, installed by itself: its user has the recipes, by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sage_dpo.config import builtin_recipes, builtin_studies

ROOT = Path(__file__).parents[2]
SOURCES = ("src", "recipes", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
LOAD = """
import sage_dpo
from sage_dpo.config import builtin_recipes, builtin_studies, load_config
print(sage_dpo.__file__)
for recipe in builtin_recipes():
    print(recipe.path, load_config(recipe.name).name)
from sage_dpo.studies.config import load_study
from sage_dpo.config import find_study
for name in builtin_studies():
    print(load_config(find_study(name).parent / load_study(name).recipe).name)
"""


def run(*arguments: object, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds an installed wheel and nothing else. The wheel is made of a source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(path, source / name)
    run("-m", "build", "--no-isolation", "--outdir", folder / "dist", source, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", folder / "site", wheel, cwd=folder)
    shutil.rmtree(source)
    return folder / "site"


@pytest.mark.slow
def test_an_installed_wheel_lists_and_loads_every_recipe(site: Path, tmp_path: Path) -> None:
    output = run("-c", LOAD, cwd=tmp_path, PYTHONPATH=str(site)).splitlines()
    assert Path(output[0]).parent == site / "sage_dpo"
    recipes = [line.split()[0] for line in output[1:] if line.startswith("/")]
    assert recipes == [str(site / "sage_dpo" / "recipes" / f"{recipe.name}.yaml") for recipe in builtin_recipes()]
    assert len(output) == 1 + len(recipes) + len(builtin_studies())


@pytest.mark.slow
def test_its_commands_take_names(site: Path, tmp_path: Path) -> None:
    listed = run("-m", "sage_dpo", "recipes", cwd=tmp_path, PYTHONPATH=str(site))
    assert [
        name for name in listed.splitlines() if name and not name.startswith((" ", "studies", "several", "sage-dpo"))
    ] == [recipe.name for recipe in builtin_recipes()]
    assert "distributed_type: FSDP" in run(
        "-m", "sage_dpo", "recipes", "show", "accelerate/fsdp2", cwd=tmp_path, PYTHONPATH=str(site)
    )
    shown = run("-m", "sage_dpo", "recipes", "show", "quickstart", cwd=tmp_path, PYTHONPATH=str(site))
    assert shown == (ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
    planned = run("-m", "sage_dpo", "plan", "quickstart", cwd=tmp_path, PYTHONPATH=str(site))
    assert planned.startswith("Plan of quickstart: ")
