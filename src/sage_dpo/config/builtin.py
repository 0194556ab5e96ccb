"""Recipes, studies and configurations of `accelerate launch` by name: those that come with the package.

They lie in `recipes/` of the repository and are copied to `sage_dpo/recipes/` when a wheel is built (`setup.py`); a
checkout and an editable install read them where they are. What a list says of a recipe stands at the head of its file:
the first line is what it is for, and the lines from `# Needs: ` on, what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage_dpo.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]
_NEEDS = "Needs: "


@dataclass(frozen=True, slots=True)
class BuiltinRecipe:
    """A recipe that comes with the package.

    Attributes:
        name: the file's, without `.yaml`.
        path: of the file.
        purpose: what it is for, in one line.
        needs: what it needs: hardware, data, extras.
    """

    name: str
    path: Path
    purpose: str
    needs: str


def builtin_recipes() -> list[BuiltinRecipe]:
    """Return the package's recipes, by name."""
    return [_described(path) for path in _files("")]


def builtin_studies() -> list[str]:
    """Return the names of the package's studies."""
    return [path.stem for path in _files("studies")]


def builtin_launchers() -> list[str]:
    """Return the names of the package's configurations of `accelerate launch`."""
    return [f"accelerate/{path.stem}" for path in _files("accelerate")]


def find_launcher(name: str) -> Path:
    """Return the file of a configuration of `accelerate launch`.

    Raises:
        ConfigError: there is none of that name.
    """
    named = dict(zip(builtin_launchers(), _files("accelerate"), strict=True))
    if name not in named:
        raise ConfigError(f"configuration {name!r} does not exist; give one of {', '.join(named)}")
    return named[name]


def find_recipe(given: str | Path) -> Path:
    """Return the file of a recipe: a path, or else the name of one that comes with the package.

    Raises:
        ConfigError: neither.
    """
    return _find(given, "recipe", _files(""))


def find_study(given: str | Path) -> Path:
    """Return the file of a study: a path, or else the name of one that comes with the package.

    Raises:
        ConfigError: neither.
    """
    return _find(given, "study", _files("studies"))


def _find(given: str | Path, what: str, files: list[Path]) -> Path:
    path = Path(given)
    if path.is_file():
        return path
    named = {file.stem: file for file in files}
    if str(given) in named:
        return named[str(given)]
    raise ConfigError(
        f"{what} {str(given)!r} does not exist; give the path of a YAML file, or a name: {', '.join(named)}"
    )


def _files(folder: str) -> list[Path]:
    packaged = _PACKAGE / "recipes"
    root = packaged if packaged.is_dir() else _PACKAGE.parents[1] / "recipes"
    return sorted((root / folder).glob("*.yaml"))


def _described(path: Path) -> BuiltinRecipe:
    head: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line[1:].strip())
    start = next((number for number, line in enumerate(head) if line.startswith(_NEEDS)), len(head))
    end = next((number for number in range(start, len(head)) if not head[number]), len(head))
    needs = " ".join(head[start:end]).removeprefix(_NEEDS)
    return BuiltinRecipe(path.stem, path, head[0].rstrip("."), needs.rstrip("."))
