"""The recipes that come with the package: a list of them, and each as text."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from sage_dpo.config import builtin_launchers, builtin_recipes, builtin_studies, find_launcher, find_recipe

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
    launchers = f"several GPUs (accelerate launch --config_file FILE): {', '.join(builtin_launchers())}"
    print(textwrap.fill(launchers, _WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    print("sage-dpo recipes show NAME > my.yaml makes a copy to change.")


def show(name: Annotated[str, typer.Argument(help="Of the recipe, or of a configuration of accelerate.")]) -> None:
    """Print a recipe, to read it or to save it as a file of your own."""
    path = find_launcher(name) if name.startswith("accelerate/") else find_recipe(name)
    print(path.read_text(encoding="utf-8"), end="")
