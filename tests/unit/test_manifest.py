"""A run's manifest and lock: nothing done twice, nothing mixed up, nothing thrown away that is not a run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sage_dpo.errors import RunFolderError
from sage_dpo.inputs import library_versions
from sage_dpo.manifest import Manifest, discard, locked
from sage_dpo.run_folder import RunFolder
from sage_dpo.storage import atomic_path

INPUTS = {"machine": {"device": "cpu", "threads": 1}, "policy": {"model.safetensors": "abc"}}


def opened(root: Path, config_text: str = "a: 1\n", inputs: Any = INPUTS, accepted: Sequence[str] = ()) -> Manifest:
    return Manifest(RunFolder(root), config_text, inputs, accepted)


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
        named = rf"another process \(pid {other.pid} on .+\) is writing .*run; wait"
        with pytest.raises(RunFolderError, match=named), locked(tmp_path / "run"):
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


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"machine": {"device": "cpu", "threads": 2}}, "machine.threads was 1, is 2"),
        ({"policy": {"model.safetensors": "abd"}}, "policy.model.safetensors was abc, is abd"),
        ({"policy": {"model.safetensors": "abc", "adapter.json": "x"}}, "policy.adapter.json was absent, is x"),
        ({"versions": {**library_versions(), "torch": "0"}}, "versions.torch was"),
    ],
)
def test_a_run_is_continued_with_what_it_was_begun_with_unless_the_change_is_declared_safe(tmp_path, inputs, named):
    opened(tmp_path)
    changed = {**INPUTS, "versions": library_versions(), **inputs}
    with pytest.raises(RunFolderError, match=re.escape(named)) as error:
        opened(tmp_path, inputs=changed)
    name = re.search(r"--accept (\S+)", str(error.value))[1].split(",")[0]
    for accepted in ([name], [name.partition(".")[0]]):
        copy = tmp_path / accepted[0]
        opened(copy)
        assert opened(copy, inputs=changed, accepted=accepted).values["accepted"][0]
        again = opened(copy, inputs=changed)  # it is what the run is continued with from now on
        assert again.accepted == (name,)  # also from a checkpoint of before


def test_an_input_that_an_earlier_version_did_not_record_is_added(tmp_path):
    opened(tmp_path, inputs={})
    assert opened(tmp_path).values["policy"] == INPUTS["policy"]
    with pytest.raises(RunFolderError, match="policy"):
        opened(tmp_path, inputs={**INPUTS, "policy": {}})


def test_what_a_stage_wrote_is_checked_and_made_again_where_it_was_deleted(tmp_path):
    file, calls = tmp_path / "pool" / "pairs.parquet", []

    def work() -> dict[str, int]:
        calls.append(1)
        file.parent.mkdir(exist_ok=True)
        file.write_text(str(content))
        return {}

    def run() -> None:
        opened(tmp_path).stage("pool", work, [file.parent])

    content = 1
    run()
    run()
    assert len(calls) == 1
    file.write_text("2")
    with pytest.raises(RunFolderError, match=r"pool/pairs.parquet has another content.*move it away and run"):
        run()
    file.unlink()
    run()
    run()
    assert len(calls) == 2
    file.unlink()
    content = 2
    with pytest.raises(RunFolderError, match="stage pool was made again and its files are others"):
        run()


def test_a_folder_that_was_being_discarded_is_emptied_and_links_stay(tmp_path, monkeypatch):
    opened(tmp_path / "real")
    (tmp_path / "real" / "arms" / "sage").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            discard(tmp_path / "run")
    with locked(tmp_path / "run"):
        assert not RunFolder(tmp_path / "run").has_parts
    assert (tmp_path / "run").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"real", "run"}
    opened(tmp_path / "run")
    discard(tmp_path / "run")
    assert {path.name for path in (tmp_path / "real").iterdir()} <= {"run.lock"}


def test_what_killed_writers_left_is_swept_up(tmp_path):
    with atomic_path(tmp_path / "run" / "arms" / "x.json") as temporary:
        temporary.write_text("half")
        shutil.copy(temporary, temporary.with_name(".y.json.123.tmp"))
    with locked(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run" / "arms").iterdir()] == ["x.json"]


def test_only_a_run_is_discarded_and_then_it_is_gone(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "letter.txt").touch()
    with pytest.raises(RunFolderError, match="not a run folder"):
        discard(tmp_path / "precious")
    opened(tmp_path / "run")
    discard(tmp_path / "run")
    assert not RunFolder(tmp_path / "run").has_parts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "run"]


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunFolderError, match="give a folder"), locked(place):
            pass


@pytest.mark.parametrize("text", ["[]", "{}", '{"stages": [], "data": {}}', "null"])
def test_a_file_that_is_no_manifest_is_named(text: str, tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"manifest\.json is not a run's manifest: .*; restore it"):
        opened(tmp_path)
