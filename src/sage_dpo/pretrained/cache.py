"""The cache of converted models: one folder for each GGUF file, named by its hash, checked whenever it is used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from filelock import FileLock

from sage_dpo.digests import changed_files, digest_files
from sage_dpo.errors import ConfigError, DataError
from sage_dpo.pretrained.gguf import Header, convert, read_header
from sage_dpo.storage import read_json, write_json, write_text

CACHE_VARIABLE = "SAGE_DPO_CACHE"
_RECORD, _WEIGHTS = "source.json", "model.safetensors"
_SPARE_BYTES = 16 * 2**20  # tokenizer and configuration


def cache_folder() -> Path:
    """Return where converted models are kept: `SAGE_DPO_CACHE`, else `sage-dpo` in the user's cache."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sage-dpo"


def converted(path: Path, *, sha256: str, card: str, install: str, progress: bool = True) -> Path:
    """Return the folder of a GGUF file's converted model; convert it if it is not there, or not as it was written.

    Args:
        path: of the GGUF file.
        sha256: its hash.
        card: the model card, written beside the weights; `{weights_sha256}` is replaced.
        install: how to get the package `gguf`, for the error message.
        progress: say that a conversion begins, which takes a minute or two.

    Raises:
        ConfigError: the file cannot be converted, or the disk has too little space.
        OSError: the cache cannot be written.
    """
    folder = cache_folder() / f"{path.stem}-{sha256[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _is_whole(folder, sha256):
            for left in folder.parent.glob(f".{folder.name}.*.tmp"):  # of conversions that were killed
                shutil.rmtree(left, ignore_errors=True)
            header = read_header(path, install=install)
            _require_space(folder.parent, header)
            if progress:
                print(f"== converting {path.name}, once, to {folder}", flush=True)
            _convert_whole(path, folder, header, sha256, card)
    return folder


def _is_whole(folder: Path, sha256: str) -> bool:
    """Whether a folder holds what was written to it, and from this file."""
    try:
        record = read_json(folder / _RECORD)
        return bool(record["gguf_sha256"] == sha256 and not changed_files(folder, record["files"]))
    except (DataError, KeyError, TypeError, AttributeError):  # absent or damaged
        return False


def _require_space(folder: Path, header: Header) -> None:
    needed, free = header.converted_bytes + _SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"the cache {folder} has {free / 1e9:.2f} GB of free disk, and the converted model needs "
            f"{needed / 1e9:.2f} GB; free some, or name another folder in {CACHE_VARIABLE}"
        )


def _convert_whole(path: Path, folder: Path, header: Header, sha256: str, card: str) -> None:
    """Convert beside the folder and rename, so that an interruption leaves no half of a model."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        convert(path, temporary, header)
        files = digest_files(temporary, [temporary])
        write_text(temporary / "README.md", card.replace("{weights_sha256}", files[_WEIGHTS]["sha256"]))
        write_json(temporary / _RECORD, {"gguf": path.name, "gguf_sha256": sha256, "files": files})
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
