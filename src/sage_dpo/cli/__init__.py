"""`sage-dpo`: every stage from the command line. Arguments become settings; the work is done elsewhere.

Heavy imports happen inside the commands, so that `--help` and a typing error answer at once.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Annotated

import typer

from sage_dpo import __version__
from sage_dpo.cli import builtin, evaluation, gym, recipes, selection, stages
from sage_dpo.cli.launcher import INTERRUPTED, check_shared, fail, is_main, leaving_at_once, lost_process, start
from sage_dpo.cli.options import Resumable
from sage_dpo.errors import SageError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Select the preference pairs worth a gradient, while the policy trains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    recipes.run,
    recipes.study,
    recipes.tune,
    recipes.plan,
    stages.problems,
    stages.rollouts,
    stages.verify,
    stages.pairs,
    selection.select,
    selection.inspect,
    evaluation.evaluate,
    recipes.report,
    recipes.settings,
):
    app.command()(command)
gym_app = typer.Typer(help="The gym: a small reasoning world with known misconceptions.", no_args_is_help=True)
gym_app.command("train")(gym.train)
gym_app.command("problems")(gym.problems)
app.add_typer(gym_app, name="gym")
recipes_app = typer.Typer(invoke_without_command=True, callback=builtin.list_recipes)
recipes_app.command("show")(builtin.show)
app.add_typer(recipes_app, name="recipes")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    check_shared(context.invoked_subcommand)


def main() -> None:
    """Run the command line; errors of ours, and what the system refuses, become one message and exit code 2."""
    with leaving_at_once():
        _main()


def _main() -> None:
    if not is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    for stream in (sys.stdout, sys.stderr):  # a terminal of ASCII, at the end of a finished run, is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # transformers 5.23 renames what TRL 1.16 still uses; nothing a user of ours can change
    warnings.filterwarnings("ignore", message=".*is deprecated and will be removed in v6", category=FutureWarning)
    try:
        start(app)
    except SageError as error:
        fail(f"error: {error}")
    except OSError as error:
        named = error.filename is not None and error.strerror is not None
        fail(f"error: {f'{error.filename}: {error.strerror}' if named else error}")
    except Exception as error:
        refusal = lost_process(error) or _refusal(error)
        if refusal is None:
            raise
        fail(f"error: {refusal}")
    except Resumable as stop:
        fail(f"\ninterrupted; {stop}", INTERRUPTED)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:  # typer turns Ctrl-C into it
            raise
        fail("\ninterrupted; nothing was kept; the same command starts anew", INTERRUPTED)


_NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc")
_NO_SPACE = ("no space left", "file too large", "disk quota", "failed writing file", "streamwriter")


def _refusal(error: Exception) -> str | None:
    """Say that memory or disk ran out, where it was met in C++ or Rust, whose errors have other types; else `None`."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return "out of memory; give less data at a time, or more memory"
    if any(words in text for words in _NO_SPACE):
        return f"a file cannot be written ({str(error).splitlines()[0]}); make room and run the same command again"
    return None
