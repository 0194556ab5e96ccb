"""What files held when they were complete, to tell later which of them are damaged or replaced."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict


class Digest(TypedDict):
    """Size and hash of a file."""

    bytes: int
    sha256: str


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(root: str | Path, paths: Iterable[Path]) -> dict[str, Digest]:
    """Return the digests of files, by their path below `root`; of a folder, those of all files in it."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return {
        file.relative_to(root).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in files
        if file.is_file()
    }


def missing_files(root: str | Path, recorded: Mapping[str, Digest]) -> list[str]:
    """Return the files that are not there any more."""
    return [name for name in recorded if not (Path(root) / name).is_file()]


def changed_files(root: str | Path, recorded: Mapping[str, Digest]) -> dict[str, str]:
    """Return the files that are not what they were, each with what is wrong with it; sizes are compared first."""
    changed = {}
    for name, digest in recorded.items():
        path = Path(root) / name
        if not path.is_file():
            changed[name] = "is missing"
        elif (size := path.stat().st_size) != digest["bytes"]:
            changed[name] = f"has {size} bytes, had {digest['bytes']}"
        elif file_sha256(path) != digest["sha256"]:
            changed[name] = "has another content than was written"
    return changed
