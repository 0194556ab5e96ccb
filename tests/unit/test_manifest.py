"""A run's manifest and lock: nothing done twice, nothing mixed up, nothing thrown away that is not a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sage_dpo.errors import RunFolderError
from sage_dpo.manifest import Manifest, discard, locked
from sage_dpo.run_folder import RunFolder


def opened(root: Path, config_text: str = "a: 1\n") -> Manifest:
    return Manifest(RunFolder(root), config_text)


def test_a_complete_stage_is_not_run_again(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"rows": 3}

    for _ in range(2):
        manifest = opened(tmp_path / "run")
        assert manifest.stage("problems", work) == {"rows": 3}
    assert calls == [1]
    assert manifest.values["stages"]["problems"]["seconds"] >= 0
    assert manifest.values["versions"]["torch"]


def test_a_failed_stage_is_run_again(tmp_path):
    with pytest.raises(ZeroDivisionError):
        opened(tmp_path).stage("x", lambda: 1 / 0)
    assert not opened(tmp_path).is_complete("x")


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    opened(tmp_path, "a: 1\nb: 2\n")
    with pytest.raises(RunFolderError, match=r"changed: b: 3\).*--fresh"):
        opened(tmp_path, "a: 1\nb: 3\n")


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path):
    hold = "import sys; from pathlib import Path; from sage_dpo.manifest import locked\n"
    hold += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=r"another process is writing .*run; wait"), locked(tmp_path / "run"):
            pass
        other.kill()  # a lock dies with its process
        other.wait()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_parts_of_a_run_without_a_manifest_are_refused_and_left_alone(tmp_path):
    (tmp_path / "arms" / "sage").mkdir(parents=True)
    with pytest.raises(RunFolderError, match=r"no manifest\.json; give another `name` or `--output`"):
        opened(tmp_path)
    assert (tmp_path / "arms" / "sage").is_dir()


def test_only_a_run_is_discarded_and_then_it_is_gone(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "letter.txt").touch()
    with pytest.raises(RunFolderError, match="not a run folder"):
        discard(tmp_path / "precious")
    opened(tmp_path / "run")
    discard(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunFolderError, match="give a folder"), locked(place):
            pass
