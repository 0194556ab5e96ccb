"""What `pyproject.toml` cannot say: a wheel holds the recipes, which lie beside the package, as `sage_dpo/recipes`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # they are read where they lie
            return
        target = Path(self.build_lib) / "sage_dpo" / "recipes"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        shutil.copytree("recipes", target, ignore=shutil.ignore_patterns("*.json"))


setup(cmdclass={"build_py": BuildWithRecipes})
