"""Completions from all processes: each samples its share of the problems; a server is asked by the main one alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sage_dpo.config import RolloutSettings, ServerEngineSettings
from sage_dpo.processes import Processes
from sage_dpo.records import Completion, Problem
from sage_dpo.rollouts import sample_rollouts


def sample_shared(
    processes: Processes,
    problems: Sequence[Problem],
    rollouts: RolloutSettings,
    *,
    journal: Callable[[int], Path | None],
    progress: bool,
    **arguments: Any,
) -> tuple[list[Completion], float]:
    """Ask the problems as a recipe says; see `sample_rollouts`, which takes the other arguments.

    What is drawn depends on the problem and not on who asks it, so that the shares together are what one process gets.

    Args:
        processes: each of which calls this, and gets all completions.
        problems: in the order wanted.
        rollouts: of the recipe.
        journal: where a process keeps its completions as they come; `None` keeps none.
        progress: show a progress bar, on the main process.

    Returns:
        Completions by problem, then sample; the seconds of the slowest process.
    """

    def ask(mine: Sequence[Problem]) -> tuple[list[Completion], float]:
        shown, kept = progress and processes.is_main, journal(processes.index)
        return sample_rollouts(mine, rollouts, progress=shown, journal=kept, **arguments)

    if isinstance(rollouts.engine, ServerEngineSettings):
        return processes.on_main(lambda: ask(problems), "completions of the server")
    completions, seconds = ask(processes.share_of(problems))
    return processes.gathered(completions, "completions"), max(processes.gathered([seconds]))
