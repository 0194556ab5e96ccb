"""The recipes that come with the package: a list of them, and each as text."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from sage_dpo.config import builtin_recipes, builtin_studies, find_recipe

_WIDTH = 100


def list_recipes(context: typer.Context) -> None:
    """List the recipes and studies that come with the package; run, plan, tune and study take their names."""
    if context.invoked_subcommand is not None:
        return
    for recipe in builtin_recipes():
        print(recipe.name)
        for text in (recipe.purpose, f"needs: {recipe.needs}"):
            print(textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))
    studies = f"studies (sage-dpo study NAME): {', '.join(builtin_studies())}"
    print(textwrap.fill(studies, _WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    print("sage-dpo recipes show NAME > my.yaml makes a copy to change.")


def show(name: Annotated[str, typer.Argument(help="Of the recipe.")]) -> None:
    """Print a recipe, to read it or to save it as a file of your own."""
    print(find_recipe(name).read_text(encoding="utf-8"), end="")
