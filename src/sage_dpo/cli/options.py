"""What the commands share: options, the way from options to settings, and what Ctrl-C may promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import create_model

from sage_dpo.cli.launcher import is_main
from sage_dpo.config import (
    RolloutSettings,
    RunConfig,
    Section,
    TransformersEngineSettings,
    parse_yaml,
    set_dotted,
    validate,
)
from sage_dpo.config.page import default_text
from sage_dpo.errors import ConfigError


def setting(section: type[Section], name: str, *flags: str) -> Any:
    """Return an option that stands for a setting, with the setting's help. Left out, the setting's default holds."""
    field = section.model_fields[name]
    default = default_text(field).strip("`")
    shown = default if default not in ("null", "required") else False
    return typer.Option(*flags, help=field.description, show_default=shown)


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
ModelPath = Annotated[
    str, typer.Option("--model", help="Folder, hub id, gym:S, gym:M, gym:S-hard (bundled), or smollm2 (extra).")
]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON.")]
ProblemsPath = Annotated[Path, typer.Option("--problems", help="JSONL or Parquet with id, problem, answer.")]
FieldMap = Annotated[
    list[str] | None,
    typer.Option(
        "--field", help="Which column holds what, as answer=gold or answer=last_box(solution). Can be repeated."
    ),
]
Seed = Annotated[int | None, setting(RunConfig, "seed")]
RecipeOverrides = Annotated[list[str] | None, typer.Option("--set", help="Override, as training.steps=20.")]
StageOverrides = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting of the sections that are used, as policy.dtype=bfloat16.")
]

BatchSize = Annotated[int | None, setting(TransformersEngineSettings, "batch_size")]
PromptTemplate = Annotated[str | None, setting(RolloutSettings, "prompt_template")]
SystemPrompt = Annotated[str | None, setting(RolloutSettings, "system_prompt")]

LOCAL = {"rollouts.engine.kind": "transformers"}
"""What samples unless `--set rollouts.engine.kind=server` says otherwise; its other settings need it said."""


def read_settings(
    given: Mapping[str, Any],
    overrides: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    **sections: type[Section],
) -> Any:
    """Return a command's settings, validated: an object with one attribute for each section, and `seed`.

    Args:
        given: what options were given, by dotted key; `None` is an option left out.
        overrides: `--set section.key=value`; a key without a section belongs to the last of the sections.
        defaults: the command's own, where they differ from the recipe's.
        sections: of the recipe, those the command uses.

    Raises:
        ConfigError: one line per setting that is unknown or out of range.
    """
    values: dict[str, Any] = {}
    said = {key: value for key, value in given.items() if value is not None}
    for key, value in {**(defaults or {}), **said, **parse_overrides(overrides)}.items():
        set_dotted(values, key if "." in key or key == "seed" else f"{[*sections][-1]}.{key}", value)
    fields: dict[str, Any] = {name: (section, section()) for name, section in sections.items()}
    seed = (int, RunConfig.model_fields["seed"])
    return validate(create_model("Settings", __base__=Section, seed=seed, **fields), values)


def parse_overrides(items: Sequence[str] | None) -> dict[str, Any]:
    """Return `--set` as dotted keys and YAML values."""
    return {key: parse_yaml(value) for key, value in map(_assignment, items or [])}


def parse_fields(items: Sequence[str] | None) -> dict[str, str]:
    """Return `--field` as a mapping of column names."""
    return dict(map(_assignment, items or []))


def require_suffix(path: Path | None, *suffixes: str) -> None:
    """Refuse an output file of another kind than is written, before any work.

    Raises:
        ConfigError: the name ends in none of the suffixes.
    """
    if path is not None and path.suffix not in suffixes:
        raise ConfigError(f"--output is {str(path)!r}, which is written as {' or '.join(suffixes)}; name it so")
    if path is not None and path.is_dir():
        raise ConfigError(f"--output is {str(path)!r}, a folder, expected the name of a file; give another name")


def parse_list(option: str, text: str, kind: type[int] | type[float], example: str) -> list[Any]:
    """Return comma-separated numbers.

    Raises:
        ConfigError: one of them is no such number.
    """
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} is {text!r}, expected numbers like {example}") from None


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is not an assignment, expected key=value")
    return key, value


def write_result(path: Path | None, value: Any) -> None:
    """Write what a command found as JSON, if `--json` was given; once, where several processes found it."""
    if path and is_main():
        from sage_dpo.storage import write_json

        write_json(path, value)


class Resumable(BaseException):
    """Ctrl-C in a command that continues where it stopped. No `Exception`: nothing may catch it on the way."""


@contextmanager
def resumable(is_kept: bool = True, *, how: str = "run the same command again to continue") -> Iterator[None]:
    """Let Ctrl-C inside tell how the command goes on where it stopped, if its work is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if not is_kept:
            raise
        raise Resumable(how) from None
