"""The stages from the command line, each by itself, and what a typing error gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from sage_dpo.cli import app
from sage_dpo.config import PolicySettings
from sage_dpo.errors import EmptyPoolError, RunFolderError, SageError
from sage_dpo.locks import sole_writer
from sage_dpo.pairs import load_preference_data, tokenize_preferences
from sage_dpo.pipeline.policies import load_tokenizer
from sage_dpo.records import Completion, PreferencePair, Verdict
from sage_dpo.run_folder import SuitesFolder, journal_path
from sage_dpo.storage import read_json, read_records, write_records

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sage_dpo", *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Path:
    """Problems -> rollouts -> verdicts -> pairs -> selection, as a user would type it."""
    folder = tmp_path_factory.mktemp("stages")
    problems, completions, verdicts = folder / "p.jsonl", folder / "c.parquet", folder / "v.parquet"
    invoke("gym", "problems", "--output", problems, "--count", 12, "--seed", 3)
    invoke("rollouts", "--model", "gym:S", "--problems", problems, "--output", completions, "--samples", 4,
           "--max-new-tokens", 96, "--quiet")  # fmt: skip
    invoke("verify", "--problems", problems, "--completions", completions, "--output", verdicts, "--json",
           folder / "v.json", "--quiet")  # fmt: skip
    invoke("pairs", "--model", "gym:S", "--problems", problems, "--completions", completions, "--verdicts", verdicts,
           "--output", folder / "pairs.parquet")  # fmt: skip
    invoke("pairs", "--model", "gym:S", "--problems", problems, "--completions", completions, "--verdicts", verdicts,
           "--output", folder / "pairs.jsonl")  # fmt: skip
    invoke("select", "--model", "gym:S", "--data", folder / "pairs.parquet", "--output", folder / "s.parquet",
           "--annotate", "--quiet")  # fmt: skip
    return folder


def test_the_stages_hand_their_files_on(stages):
    completions = read_records(stages / "c.parquet", Completion)
    verdicts = read_records(stages / "v.parquet", Verdict)
    pairs = read_records(stages / "pairs.parquet", PreferencePair)
    selected = pq.read_table(stages / "s.parquet").to_pylist()
    assert len(completions) == len(verdicts) == 48
    assert sum(read_json(stages / "v.json")["counts"].values()) == 48
    kinds = {(v.problem_id, v.sample): v.kind for v in verdicts}
    for pair in pairs:
        assert kinds[pair.problem_id, pair.chosen_sample] == "correct"
        assert kinds[pair.problem_id, pair.rejected_sample] == "wrong"
    assert [row["sage_pair_id"] for row in selected] == [pair.id for pair in pairs]
    assert 1 <= sum(row["sage_is_kept"] for row in selected) <= (len(pairs) + 1) // 2


def test_what_was_selected_can_be_inspected(stages):
    whole = json.loads(invoke("inspect", stages / "s.parquet", "--json"))[0]
    assert whole["rows"] == whole["kept"] + whole["below"] + whole["shut"]
    best = whole["top"][0]
    told = invoke("inspect", stages / "s.parquet", "--pair", best["pair_id"])
    assert f"{best['pair_id']} in {stages / 's.parquet'}" in told
    assert "  prompt: " in told
    assert "kept: rank 1 of" in told


def test_a_reference_solution_can_stand_in_for_a_correct_sample(stages, tmp_path):
    verdicts = read_records(stages / "v.parquet", Verdict)
    write_records(tmp_path / "v.parquet", [replace(verdict, kind="wrong") for verdict in verdicts], Verdict)
    words = ("pairs", "--model", "gym:S", "--problems", stages / "p.jsonl", "--completions", stages / "c.parquet",
             "--verdicts", tmp_path / "v.parquet", "--output", tmp_path / "pairs.parquet")  # fmt: skip
    with pytest.raises(EmptyPoolError):
        invoke(*words)
    invoke(*words, "--set", "use_reference_solution=true")
    assert read_records(tmp_path / "pairs.parquet", PreferencePair)


def test_both_files_of_pairs_hold_the_prompt_that_was_sampled(stages, tmp_path):
    words = ("pairs", "--model", "gym:S", "--problems", stages / "p.jsonl", "--completions", stages / "c.parquet",
             "--verdicts", stages / "v.parquet", "--output", tmp_path / "pairs.parquet")  # fmt: skip
    invoke(*words)
    made = read_records(tmp_path / "pairs.parquet", PreferencePair)
    tokenizer = load_tokenizer(PolicySettings(path="gym:S"))
    assert tokenize_preferences(load_preference_data(tmp_path / "pairs.parquet"), tokenizer).pairs == made
    again = tokenize_preferences(load_preference_data(stages / "pairs.jsonl"), tokenizer).pairs
    tokens = [(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids, pair.problem_id) for pair in made]
    assert [(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids, pair.problem_id) for pair in again] == tokens


def test_rollouts_are_the_same_under_one_seed(stages, tmp_path):
    invoke("rollouts", "--model", "gym:S", "--problems", stages / "p.jsonl", "--output", tmp_path / "c.parquet",
           "--samples", 4, "--max-new-tokens", 96, "--quiet")  # fmt: skip
    assert read_records(tmp_path / "c.parquet", Completion) == read_records(stages / "c.parquet", Completion)


def test_a_file_that_is_sampled_into_is_left_alone_until_that_process_has_ended(stages, tmp_path):
    """The other one is stopped on the way, so that it still has the lock, and then killed; the same command goes on."""
    output = tmp_path / "c.parquet"
    words = ("rollouts", "--model", "gym:S", "--problems", stages / "p.jsonl", "--output", output, "--samples", 4,
             "--max-new-tokens", 96, "--batch-size", 4, "--quiet")  # fmt: skip
    other = subprocess.Popen([sys.executable, "-m", "sage_dpo", *map(str, words)], env=ENVIRONMENT)
    try:
        while not (journal := journal_path(output)).exists() or b"completions" not in journal.read_bytes():
            assert other.poll() is None
            time.sleep(0.001)
        other.send_signal(signal.SIGSTOP)
        kept = journal.read_bytes()
        with pytest.raises(RunFolderError, match=rf"\(pid {other.pid} on .*\) is writing {output}; wait"):
            invoke(*words)
        assert journal.read_bytes() == kept
    finally:
        other.kill()
        other.wait()
    invoke(*words)
    assert read_records(output, Completion) == read_records(stages / "c.parquet", Completion)
    assert list(tmp_path.iterdir()) == [output]


def test_a_folder_of_suites_has_one_writer(tmp_path):
    with (
        sole_writer(tmp_path, SuitesFolder(tmp_path).lock),
        pytest.raises(RunFolderError, match=rf"\(pid {os.getpid()} on .*\) is writing {tmp_path}; wait"),
    ):
        invoke("evaluate", "--model", "gym:S", "--suites", "short", "--quiet", "--output", tmp_path)


def test_evaluate_on_one_gym_suite(tmp_path):
    output = invoke("evaluate", "--model", "gym:S", "--suites", "short", "--max-new-tokens", 64, "--quiet", "--json",
                    tmp_path / "e.json", "--output", tmp_path / "e")  # fmt: skip
    result = read_json(tmp_path / "e.json")
    assert result["suites"]["short"]["size"] == 200
    assert 0.5 < result["average"] < 0.95
    assert f"{100 * result['average']:.2f}" in output
    assert (tmp_path / "e" / "short.parquet").is_file()


def test_human_solutions_of_gsm8k(benchmark_data, tmp_path):
    problems = benchmark_data / "gsm8k_train.jsonl"
    invoke("verify", "--problems", problems, "--completions", "solution", "--json", tmp_path / "v.json", "--quiet")
    result = read_json(tmp_path / "v.json")
    assert sum(result["counts"].values()) == 7473
    assert result["counts"]["correct"] >= 0.999 * 7473
    assert result["answer_lines_restored"] == 7473


def test_completions_from_jsonl(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "problem": "1 + 1?", "answer": "2"}\n')
    rows = [{"problem_id": "a", "completion": r"\boxed{2}"}, {"problem_id": "a", "completion": r"\boxed{3}"}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = invoke("verify", "--problems", tmp_path / "p.jsonl", "--completions", tmp_path / "c.jsonl", "--quiet")
    assert "correct 1 (50.00 %), wrong 1 (50.00 %)" in output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a", "problem": "1 + 1?"}\n', "answer"),
        ('{"id": "a", "problem": "x", "answer": "2"}\n{"id": "a", "problem": "y", "answer": "3"}\n', "line 2"),
        ("not json\n", "line 1"),
    ],
)
def test_broken_problem_files_name_the_line(text, message, tmp_path):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(SageError, match=message):
        invoke("problems", "--input", tmp_path / "p.jsonl")


def test_errors_are_one_message_and_exit_code_two(tmp_path):
    done = command("run", tmp_path / "nothing.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: recipe")
    assert "Traceback" not in done.stderr
    done = command("run", ROOT / "recipes" / "quickstart.yaml", "--set", "trainign.steps=3")
    assert "did you mean 'training'?" in done.stderr
    done = command("run", "--colour", "red")
    assert done.returncode == 2
    assert "No such option" in done.stderr
    done = command("verify", "--problems", tmp_path / "none.jsonl", "--completions", "solution")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_verify_names_a_bad_line_of_the_completions(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "problem": "1 + 1?", "answer": "2"}\n')
    (tmp_path / "bad.jsonl").write_text('{"problem_id": "a", "completion": "2"}\n{"problem_id": "a", "comp\n')
    done = command("verify", "--problems", tmp_path / "p.jsonl", "--completions", tmp_path / "bad.jsonl")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'bad.jsonl'}, line 2: not JSON")
    assert len(done.stderr.splitlines()) == 1


def test_help_names_every_stage():
    done = command("--help")
    for name in ["run", "tune", "problems", "rollouts", "verify", "pairs", "select", "inspect", "report", "gym"]:
        assert f" {name} " in done.stdout
