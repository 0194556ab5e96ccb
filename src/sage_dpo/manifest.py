"""Writing a run's folder: its manifest says which stages are complete, its lock keeps other processes away.

A stage is complete when the manifest says so; running the same recipe again skips complete stages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sage_dpo.digests import changed_files, digest_files, missing_files
from sage_dpo.errors import RunFolderError
from sage_dpo.inputs import accept_changes, library_versions
from sage_dpo.locks import holder_path, sole_writer
from sage_dpo.run_folder import RunFolder
from sage_dpo.storage import read_json, write_json, write_text

_LOCK = "run.lock"
_HOLDER = holder_path(Path(_LOCK)).name
_DISCARDED = ".discarded"
"""Marks a folder whose content is being deleted."""


class Manifest:
    """What a run has done: on what it depends, hashes of the data, which stages are complete, and their files.

    Args:
        folder: of the run; created if needed.
        config_text: the resolved configuration as YAML.
        inputs: what the results depend on beside it (`versions`, `device`, `policy`, `sources`), nested mappings.
        accepted: fields of it that may differ from those of a run that is resumed.

    Raises:
        RunFolderError: the folder holds a run of another configuration or of other inputs, or parts of a run without a
            manifest.
    """

    def __init__(
        self,
        folder: RunFolder,
        config_text: str,
        inputs: Mapping[str, Any] | None = None,
        accepted: Collection[str] = (),
    ) -> None:
        self._path, self._root, self._accepted = folder.manifest, folder.root, tuple(accepted)
        inputs = {"versions": library_versions(), **(inputs or {})}
        if self._path.exists():
            changes = folder.changes(config_text)
            if changes:
                raise RunFolderError(
                    f"{folder.root} holds a run of another configuration (changed: {'; '.join(changes[:5])}); give "
                    "another `name` or `--output` (`--fresh` would discard that run)"
                )
            self.values: dict[str, Any] = _read(self._path)
            self.check(inputs)
            self._forget_lost_stages()
        elif folder.has_parts:
            raise RunFolderError(
                f"{folder.root} holds parts of a run but no manifest.json; give another `name` or `--output`"
            )
        else:
            write_text(folder.config, config_text)
            self.values = {**inputs, "data": {}, "stages": {}}
            self._save()

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Compare some of the inputs with those the run was begun with; record the changes that are accepted.

        Raises:
            RunFolderError: another one differs.
        """
        before = {name: self.values[name] for name in inputs if name in self.values}  # a new kind of input is added
        now = {name: inputs[name] for name in before}
        if "versions" in before:  # of libraries that were there
            now["versions"] = {name: inputs["versions"].get(name) for name in before["versions"]}
        changes = accept_changes(before, now, self._accepted, what=str(self._root), how="--accept {names}")
        if changes or len(before) < len(inputs):
            self.values["accepted"] = [*self.values.get("accepted", []), *([changes] if changes else [])]
            self.values |= inputs
            self._save()

    @property
    def accepted(self) -> tuple[str, ...]:
        """Fields that were declared safe, now or by an earlier attempt: a checkpoint may be older than the last one."""
        earlier = (name for changes in self.values.get("accepted", []) for name in changes)
        return tuple(dict.fromkeys([*self._accepted, *earlier]))

    def is_complete(self, stage: str) -> bool:
        return stage in self.values["stages"]

    def info(self, stage: str) -> dict[str, Any]:
        """What the stage recorded about itself."""
        return dict(self.values["stages"][stage]["info"])

    def stage(self, name: str, work: Callable[[], dict[str, Any] | None], files: Iterable[Path] = ()) -> dict[str, Any]:
        """Run `work` unless the stage is complete; record its wall-clock, the mapping it returns, and its files.

        Args:
            name: of the stage.
            work: what it does.
            files: that it leaves for later ones; of a folder, all in it.

        Raises:
            RunFolderError: the stage is complete, but its files are not those that it wrote; or it was made again, its
                files are others than before, and later stages were made from those.
        """
        if self.is_complete(name):
            self._check_files(name)
            return self.info(name)
        started = time.perf_counter()
        info = work() or {}
        seconds, digests = time.perf_counter() - started, digest_files(self._root, files)
        lost = self.values.get("lost", {}).pop(name, None)
        if lost and any(
            digests.get(file) != lost["files"][file] for file in lost["files"] if file.endswith(".parquet")
        ):
            raise RunFolderError(
                f"{self._root}: stage {name} was made again and its files are others than those that were lost, so "
                "that what other stages made of them would not fit; begin anew in another folder (`--output`)"
            )
        self.values["stages"][name] = {"seconds": seconds, "info": info, "files": digests}
        self._save()
        return self.info(name)

    def _check_files(self, name: str) -> None:
        changed = changed_files(self._root, self.values["stages"][name].get("files", {}))
        if changed:
            what = "; ".join(f"{file} {reason}" for file, reason in changed.items())
            raise RunFolderError(
                f"{self._root}: {what}, since stage {name} was complete; restore it from a copy, or move it away and "
                "run the same command again, which makes the stage again"
            )

    def _forget_lost_stages(self) -> None:
        """Take stages of which files are gone as not done."""
        for name, stage in list(self.values["stages"].items()):
            if missing_files(self._root, stage.get("files", {})):
                self.values.setdefault("lost", {})[name] = self.values["stages"].pop(name)
                self._save()

    def record_data(self, name: str, sha256: str) -> None:
        self.values["data"][name] = sha256
        self._save()

    def _save(self) -> None:
        write_json(self._path, self.values)


def _read(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict) or not all(isinstance(values.get(name), dict) for name in ("data", "stages")):
        raise RunFolderError(
            f"{path} is not a run's manifest: it lacks data or stages; restore it from a copy, or begin anew in "
            "another folder (`--output`)"
        )
    return values


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold a folder, created if needed, against other processes that want to write it; end what a kill left half-done.

    Raises:
        RunFolderError: another process holds it, which is named, or a file of that name is in the way.
    """
    try:
        Path(os.path.realpath(root)).mkdir(parents=True, exist_ok=True)  # also where a link leads to nothing any more
    except (FileExistsError, NotADirectoryError):
        raise RunFolderError(f"{root} is, or lies below, a file; give a folder as `--output`") from None
    with sole_writer(root, root / _LOCK):
        if (root / _DISCARDED).exists():
            _delete_content(root)
        for left in root.rglob(".*.tmp"):  # of writers that were killed
            left.unlink(missing_ok=True)
        yield


def discard(root: Path) -> None:
    """Delete a run, for `--fresh`. The folder stays, and a link to it; killed on the way, the next start goes on.

    Raises:
        RunFolderError: the folder is not a run's, or another process holds it.
    """
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if not names or not (names & {"manifest.json", _DISCARDED} or names <= {_LOCK, _HOLDER}):
        raise RunFolderError(f"{root} is not a run folder (no manifest.json), so --fresh does not delete it")
    with locked(root):
        (root / _DISCARDED).touch()
        _delete_content(root)


def _delete_content(root: Path) -> None:
    """Delete what is in a run's folder, last the mark that it is to be deleted."""
    for path in root.iterdir():
        if path.name not in (_LOCK, _HOLDER, _DISCARDED):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (root / _DISCARDED).unlink(missing_ok=True)
