"""The cache of converted models, with a conversion that only writes a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_dpo.digests import file_sha256
from sage_dpo.errors import ConfigError
from sage_dpo.pretrained import cache
from sage_dpo.pretrained.cache import cache_folder, converted
from sage_dpo.pretrained.gguf import Header
from sage_dpo.storage import read_json

HEADER = Header("llama", "smollm", parameters=1000)


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where models were converted to; a conversion writes four bytes as weights."""
    done: list[Path] = []

    def convert(path: Path, folder: Path, header: Header) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"1234")
        done.append(folder)

    monkeypatch.setenv("SAGE_DPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "read_header", lambda path, install: HEADER)
    monkeypatch.setattr(cache, "convert", convert)
    return done


@pytest.fixture
def use(tmp_path: Path) -> Callable[[], Path]:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"x")
    return lambda: converted(
        source, sha256=file_sha256(source), card="card {weights_sha256}", install="", progress=False
    )


def test_a_model_is_converted_once_and_described(conversions: list[Path], use: Callable[[], Path]) -> None:
    folder = use()
    assert use() == folder
    assert len(conversions) == 1
    weights = file_sha256(folder / "model.safetensors")
    assert weights == "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4"  # sha256sum of 1234
    assert (folder / "README.md").read_text() == f"card {weights}"
    assert read_json(folder / "source.json")["files"]["model.safetensors"] == {"bytes": 4, "sha256": weights}


def test_damaged_weights_are_converted_again(conversions: list[Path], use: Callable[[], Path]) -> None:
    folder = use()
    (folder / "model.safetensors").write_bytes(b"12")
    assert (use() / "model.safetensors").read_bytes() == b"1234"
    (folder / "source.json").unlink()
    for damaged in ("{", "[]", '{"gguf_sha256": 1}'):
        use()
        (folder / "source.json").write_text(damaged)
    use()
    assert len(conversions) == 6


def test_what_a_killed_conversion_left_is_swept_up(conversions: list[Path], use: Callable[[], Path]) -> None:
    folder = use()
    left, other = (folder.with_name(f".{name}.1.tmp") for name in (folder.name, "another"))
    for place in (left, other):
        place.mkdir()
    assert use() == folder
    assert left.exists()  # looked for where something is to be converted
    shutil.rmtree(folder)
    use()
    assert (left.exists(), other.exists()) == (False, True)


def test_an_interrupted_conversion_leaves_nothing(
    conversions: list[Path], use: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(path: Path, folder: Path, header: Header) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"12")
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "convert", convert)
    with pytest.raises(KeyboardInterrupt):
        use()
    assert [path.suffix for path in cache_folder().iterdir() if path.is_dir()] == []


def test_too_little_disk_is_told_before_the_work(
    conversions: list[Path], use: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * HEADER.parameters + 16 * 2**20
    usage = shutil.disk_usage(Path.cwd())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(
        ConfigError, match=r"the cache .* has 0\.02 GB of free disk, .* needs 0\.02 GB; .*SAGE_DPO_CACHE"
    ):
        use()
    assert conversions == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    use()


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_DPO_CACHE", "/a")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("SAGE_DPO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/b/sage-dpo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "sage-dpo"
