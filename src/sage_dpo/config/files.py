"""Reading and writing recipes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sage_dpo.config.builtin import find_recipe
from sage_dpo.config.recipe import RunConfig
from sage_dpo.config.secrets import redact
from sage_dpo.config.section import set_dotted, validate
from sage_dpo.errors import ConfigError

_MAX_NODES = 100_000
"""Values of a recipe, each alias counted as what it stands for: more is a mistake, or made to fill the memory."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 5e-5 as text; here it is a number, as in YAML 1.2. A key that occurs twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} occurs twice", key.start_mark
                    )
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ConfigError: not valid YAML, a key twice, too many values, or half of a surrogate pair.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        value = loader.construct_document(node)
        json.dumps(value, default=str, ensure_ascii=False).encode("utf-8")
        return value
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")
        raise ConfigError(f"not valid YAML: {reason}") from None
    except RecursionError:
        raise ConfigError("not valid YAML: nested too deeply") from None
    except UnicodeEncodeError:
        raise ConfigError("not valid YAML: half of a surrogate pair in a text; write the whole character") from None
    except (ValueError, TypeError) as error:  # a date that is none, a number of more than 4,300 digits, a key of a kind
        raise ConfigError(f"not valid YAML: {error}") from None


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for, aliases written out.

    Raises:
        ComposerError: more than `_MAX_NODES`, or a node that holds itself.
    """
    if id(node) not in known:
        known[id(node)] = _MAX_NODES + 1  # met again before it is counted, it holds itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        nested = [part for item in parts for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in nested)
    if known[id(node)] > _MAX_NODES:
        message = f"it stands for more than {_MAX_NODES:,} values; write it without aliases"
        raise yaml.composer.ComposerError(None, None, message, node.start_mark)
    return known[id(node)]


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        ConfigError: no UTF-8, or as for `parse_yaml`; names the file.
    """
    try:
        return parse_yaml(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{path} is {error}") from None


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a recipe.

    Args:
        path: YAML file, or the name of a recipe that comes with the package.
        overrides: dotted keys to values, applied before validation (`{"training.steps": 10}`).

    Raises:
        ConfigError: missing file, invalid YAML (with line), unknown key, invalid value.
    """
    path = find_recipe(path)
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, expected a mapping of sections")
    for key, value in (overrides or {}).items():
        set_dotted(values, key, value)
    try:
        return validate(RunConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def dump_config(config: RunConfig) -> str:
    """Return the resolved recipe as YAML, secrets hidden; without any, `load_config` of it gives an equal one."""
    return yaml.safe_dump(recorded_values(config), sort_keys=False, allow_unicode=True)


def recorded_values(config: RunConfig) -> dict[str, Any]:
    """Return the resolved recipe as it is written to files: secrets hidden."""
    values: dict[str, Any] = redact(config.model_dump(mode="json"))
    return values
