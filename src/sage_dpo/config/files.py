"""Reading and writing recipes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sage_dpo.config.recipe import RunConfig
from sage_dpo.config.section import set_dotted, validate
from sage_dpo.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 5e-5 as text; here it is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ConfigError: not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}") from None


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a recipe.

    Args:
        path: YAML file.
        overrides: dotted keys to values, applied before validation (`{"training.steps": 10}`).

    Raises:
        ConfigError: missing file, invalid YAML (with line), unknown key, invalid value.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"recipe {str(path)!r} does not exist; give the path of a YAML file")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except ConfigError as error:
        raise ConfigError(f"{path} is {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, expected a mapping of sections")
    for key, value in (overrides or {}).items():
        set_dotted(values, key, value)
    try:
        return validate(RunConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def dump_config(config: RunConfig) -> str:
    """Return the resolved recipe as YAML; `load_config` of it gives an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
