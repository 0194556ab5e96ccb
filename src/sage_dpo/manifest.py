"""Writing a run's folder: its manifest says which stages are complete, its lock keeps other processes away.

A stage is complete when the manifest says so; running the same recipe again skips complete stages.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sage_dpo.errors import RunFolderError
from sage_dpo.run_folder import RunFolder
from sage_dpo.storage import read_json, write_json, write_text

_LOCK = "run.lock"
_LIBRARIES = ("sage-dpo", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "math-verify", "pyarrow")


class Manifest:
    """What a run has done: versions, hashes of the data, and which stages are complete.

    Args:
        folder: of the run; created if needed.
        config_text: the resolved configuration as YAML.

    Raises:
        RunFolderError: the folder holds a run of another configuration, or parts of a run without a manifest.
    """

    def __init__(self, folder: RunFolder, config_text: str) -> None:
        self._path = folder.manifest
        if self._path.exists():
            changes = folder.changes(config_text)
            if changes:
                raise RunFolderError(
                    f"{folder.root} holds a run of another configuration (changed: {'; '.join(changes[:5])}); give "
                    "another `name` or `--output` (`--fresh` would discard that run)"
                )
            self.values: dict[str, Any] = read_json(self._path)
        elif folder.has_parts:
            raise RunFolderError(
                f"{folder.root} holds parts of a run but no manifest.json; give another `name` or `--output`"
            )
        else:
            write_text(folder.config, config_text)
            self.values = {"versions": library_versions(), "data": {}, "stages": {}}
            self._save()

    def is_complete(self, stage: str) -> bool:
        return stage in self.values["stages"]

    def info(self, stage: str) -> dict[str, Any]:
        """What the stage recorded about itself."""
        return dict(self.values["stages"][stage]["info"])

    def stage(self, name: str, work: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Run `work` unless the stage is complete; record its wall-clock and the mapping it returns."""
        if not self.is_complete(name):
            started = time.perf_counter()
            info = work() or {}
            self.values["stages"][name] = {"seconds": time.perf_counter() - started, "info": info}
            self._save()
        return self.info(name)

    def record_data(self, name: str, sha256: str) -> None:
        self.values["data"][name] = sha256
        self._save()

    def _save(self) -> None:
        write_json(self._path, self.values)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a result, and of Python."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold a folder, created if needed, against other processes that want to write it.

    Raises:
        RunFolderError: another process holds it, or a file of that name is in the way.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RunFolderError(f"{root} is, or lies below, a file; give a folder as `--output`") from None
    lock = FileLock(root / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunFolderError(
            f"another process is writing {root}; wait until it has ended, or give another `--output`"
        ) from None
    try:
        yield
    finally:
        lock.release()


def discard(root: Path) -> None:
    """Delete a run, for `--fresh`.

    Raises:
        RunFolderError: the folder is not a run's, or another process holds it.
    """
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if "manifest.json" not in names and names != {_LOCK}:  # a lock alone: killed before it had begun
        raise RunFolderError(f"{root} is not a run folder (no manifest.json), so --fresh does not delete it")
    # Renamed first: an interrupted deletion must not leave half a run under the name.
    with locked(root):
        doomed = root.rename(root.with_name(f".{root.name}.deleted.{os.getpid()}"))
    shutil.rmtree(doomed)
