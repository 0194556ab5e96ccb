"""Recipes by name: found, listed, shown; a path wins over a name."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage_dpo.cli import app
from sage_dpo.config import builtin_recipes, builtin_studies, find_recipe, find_study, load_config
from sage_dpo.errors import ConfigError
from sage_dpo.studies.config import load_study

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = builtin_recipes()


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_recipe_and_study_of_the_repository_has_a_name():
    assert [recipe.path for recipe in RECIPES] == sorted(FOLDER.glob("*.yaml"))
    assert builtin_studies() == [path.stem for path in sorted((FOLDER / "studies").glob("*.yaml"))]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_says_what_it_is_for_and_what_it_needs(recipe):
    assert 20 <= len(recipe.purpose) <= 98
    assert recipe.needs.startswith(("a CPU", "a GPU", "two GPUs"))
    assert load_config(recipe.name) == load_config(recipe.path)


def test_a_name_stands_for_a_file_and_a_path_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart") == FOLDER / "quickstart.yaml"
    assert find_study("main") == FOLDER / "studies" / "main.yaml"
    assert load_study("main").name == "main"
    (tmp_path / "quickstart").mkdir()  # no recipe is a folder
    assert find_recipe("quickstart") == FOLDER / "quickstart.yaml"
    (tmp_path / "on-policy").write_text("name: mine\nproblems: {kind: gym}\n")
    assert find_recipe("on-policy") == Path("on-policy")
    assert load_config("on-policy").name == "mine"


@pytest.mark.parametrize(("find", "what"), [(find_recipe, "recipe"), (find_study, "study")])
@pytest.mark.parametrize("given", ["quikstart", "quickstart.yaml", "recipes/none.yaml", ""])
def test_an_unknown_name_is_one_line_with_the_names(find, what, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = builtin_studies() if what == "study" else [recipe.name for recipe in RECIPES]
    with pytest.raises(ConfigError) as caught:
        find(given)
    assert str(caught.value).startswith(f"{what} {given!r} does not exist; give the path of a YAML file")
    assert str(caught.value).endswith(f"or a name: {', '.join(names)}")
    assert "\n" not in str(caught.value)


def test_the_list_has_every_name_and_need():
    output = invoke("recipes")
    text = " ".join(output.split())
    for recipe in RECIPES:
        assert f"\n{recipe.name}\n" in f"\n{output}"
        assert f"{recipe.purpose} needs: {recipe.needs}" in text
    assert f"studies (sage-dpo study NAME): {', '.join(builtin_studies())}" in text


def test_a_recipe_that_is_shown_and_saved_is_the_same_recipe(tmp_path):
    (tmp_path / "my.yaml").write_text(invoke("recipes", "show", "on-policy"), encoding="utf-8")
    assert load_config(tmp_path / "my.yaml") == load_config("on-policy")


def test_commands_take_names():
    assert invoke("plan", "on-policy") == invoke("plan", str(FOLDER / "on-policy.yaml"))
