"""A run's manifest, as all of its processes see it: the main one keeps it, and says what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sage_dpo.manifest import Manifest
from sage_dpo.processes import Processes


class SharedManifest:
    """See `Manifest`, which these are the methods of; each is called on every process.

    Args:
        processes: of the run.
        make: makes the manifest; called on the main process.
    """

    def __init__(self, processes: Processes, make: Callable[[], Manifest]) -> None:
        self._processes = processes
        self._manifest: Any = make() if processes.is_main else None

    def check(self, inputs: Callable[[], Mapping[str, Any]]) -> None:
        if self._processes.is_main:
            self._manifest.check(inputs())

    @property
    def accepted(self) -> tuple[str, ...]:
        return self._processes.on_main(lambda: tuple(self._manifest.accepted))

    def is_complete(self, stage: str) -> bool:
        return self._processes.on_main(lambda: bool(self._manifest.is_complete(stage)))

    def info(self, stage: str) -> dict[str, Any]:
        return self._processes.on_main(lambda: dict(self._manifest.info(stage)))

    def stage(self, name: str, work: Callable[[], dict[str, Any] | None], files: Iterable[Path] = ()) -> dict[str, Any]:
        """All processes do the work of a stage that is not complete; the main one records it."""
        is_complete, recorded = self.is_complete(name), None
        if self._processes.is_main:
            recorded = self._manifest.stage(name, work, files)
        elif not is_complete:
            work()
        return self._processes.on_main(lambda: dict(recorded or {}))

    def record_data(self, name: str, sha256: str) -> None:
        if self._processes.is_main:
            self._manifest.record_data(name, sha256)
