"""The main one of several processes, without the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage_dpo.processes import Processes


class Standing(Processes):
    """Process 0 of those that gather these items."""

    def __init__(self, *others: Any) -> None:
        super().__init__(1 + len(others))
        self._others = others

    def gathered(self, items: Sequence[Any], what: str = "") -> list[Any]:
        return [*items, *self._others]

    def wait(self, what: str = "") -> None:
        pass
