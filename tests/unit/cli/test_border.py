"""What a command line is refused for: one readable line and exit code 2, before any work starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import sage_dpo.cli
from sage_dpo.cli.options import parse_list, read_settings
from sage_dpo.config import (
    OnPolicyPairSettings,
    PolicySettings,
    RolloutSettings,
    SelectorSettings,
    TrainingSettings,
    VerificationSettings,
)
from sage_dpo.errors import ConfigError


def command(monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    """Run the command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["sage-dpo", *line.split()])
    with pytest.raises(SystemExit) as stop:
        sage_dpo.cli.main()
    return int(stop.value.code or 0)


QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"
ROLLOUTS = "rollouts --model gym:S --problems p --output c.parquet"
VERIFY = "verify --problems p --completions solution"
PAIRS = "pairs --model gym:S --problems p --completions c --verdicts v --output o"
SELECT = "select --model gym:S --data p --output o.jsonl"
EVALUATE = "evaluate --model gym:S"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{ROLLOUTS} --samples 0", "rollouts.samples: Input should be greater than or equal to 1 (got 0)"),
        (f"{ROLLOUTS} --temperature -1", "rollouts.temperature: Input should be greater than or equal to 0 (got -1.0)"),
        (f"{ROLLOUTS} --temperature nan", "rollouts.temperature: Input should be a finite number (got nan)"),
        (f"{ROLLOUTS} --top-p 1.5", "rollouts.top_p: "),
        (f"{ROLLOUTS} --max-new-tokens 0", "rollouts.max_new_tokens: "),
        (f"{ROLLOUTS} --batch-size 0", "rollouts.engine.transformers.batch_size: "),
        (f"{ROLLOUTS} --server localhost:8000", "must begin with http:// or https://"),
        (f"{ROLLOUTS} --server http://a --batch-size 4", "unknown key 'rollouts.engine.server.batch_size'"),
        (f"{ROLLOUTS} --prompt-template x", "rollouts: prompt_template is 'x'; it must contain '{problem}'"),
        (f"{ROLLOUTS} --seed -1", "seed: "),
        (f"{ROLLOUTS} --set policy.dtype=int8", "policy.dtype: "),
        (f"{ROLLOUTS} --set polcy.dtype=float16", "unknown key 'polcy'; did you mean 'policy'?"),
        (f"{ROLLOUTS} --set top_p", "'top_p' is not an assignment, expected key=value"),
        (f"{VERIFY} --workers 0", "verification.workers: "),
        (f"{VERIFY} --soft-timeout-s 20", "soft_timeout_s is 20.0, not below hard_timeout_s 10.0; raise the latter"),
        (f"{VERIFY} --hard-timeout-s 0", "verification.hard_timeout_s: "),
        (f"{VERIFY} --set memory_limit_mb=1", "verification.memory_limit_mb: "),
        (f"{PAIRS} --max-pairs-per-problem 0", "pairs.max_pairs_per_problem: "),
        (f"{PAIRS} --max-length 0", "training.max_length: "),
        (f"{SELECT} --token-budget 0", "training.score_token_budget: "),
        (f"{SELECT} --set keep_ratio=0", "selection.keep_ratio: Input should be greater than 0 (got 0)"),
        (f"{SELECT} --set margn=implicit", "unknown key 'selection.margn'; did you mean 'margin'?"),
        (f"{EVALUATE} --max-new-tokens 0", "evaluation.max_new_tokens: "),
        (f"{EVALUATE} --set verification.workers=0", "verification.workers: "),
        (ROLLOUTS.replace(".parquet", ".csv"), "--output is 'c.csv', which is written as .parquet; name it so"),
        (f"{PAIRS}.csv", "--output is 'o.csv', which is written as .parquet or .jsonl; name it so"),
        (SELECT.replace(".jsonl", ".csv"), "--output is 'o.csv', which is written as .jsonl or .parquet; name it so"),
        (f"{SELECT} --selector all", "selector is all with keep_ratio 0.5; set keep_ratio to 1.0"),
        (f"{SELECT} --set margin=implicit", "margin 'implicit' compares with a reference policy, and there is none"),
        (f"{VERIFY} --output v.json", "--output is 'v.json', which is written as .parquet; name it so"),
        ("problems --input p --output o.csv", "--output is 'o.csv', which is written as .parquet; name it so"),
        ("gym problems --output o --count 0", "problems.count: "),
        ("gym problems --output o --seed -1", "seed: "),
        ("gym train --output o --seed -1", "seed: "),
    ],
)
def test_a_value_out_of_range_gets_one_line(line, message, monkeypatch, capsys):
    assert command(monkeypatch, line) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_options_left_out_have_the_defaults_of_the_sections():
    chosen = read_settings(
        {"rollouts.samples": None, "seed": None},
        policy=PolicySettings, rollouts=RolloutSettings, verification=VerificationSettings,
    )  # fmt: skip
    assert chosen.seed == 0
    assert (chosen.policy, chosen.rollouts) == (PolicySettings(), RolloutSettings())
    assert chosen.verification == VerificationSettings()


def test_overrides_win_over_options_and_those_over_the_commands_own_defaults():
    sections = {"training": TrainingSettings, "pairs": OnPolicyPairSettings}
    own = {"training.max_length": None}
    assert read_settings({}, defaults=own, **sections).training.max_length is None
    assert read_settings({"training.max_length": 64}, defaults=own, **sections).training.max_length == 64
    overrides = ["training.max_length=32", "pairs.use_reference_solution=true"]
    chosen = read_settings({"training.max_length": 64}, overrides, defaults=own, **sections)
    assert chosen.training.max_length == 32
    assert chosen.pairs.use_reference_solution


def test_a_key_without_a_section_belongs_to_the_last_one():
    chosen = read_settings({}, ["margin_temperature=5"], policy=PolicySettings, selection=SelectorSettings)
    assert chosen.selection.margin_temperature == 5.0


def test_lists_of_numbers_say_what_they_expect():
    assert parse_list("--seeds", "1,2", int, "1,2,3") == [1, 2]
    with pytest.raises(ConfigError, match="--seeds is '1,x', expected numbers like 1,2,3"):
        parse_list("--seeds", "1,x", int, "1,2,3")


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("line", "place", "advice"),
    [
        ("run r.yaml", "cli.recipes.load_config", "run the same command again to continue"),
        (f"run {QUICKSTART} --fresh", "pipeline.run.run", "run the same command without --fresh to continue"),
        ("tune r.yaml --learning-rates 1", "cli.recipes.load_config", "run the same command again to continue"),
        (f"{EVALUATE} --output o", "pipeline.evaluate.evaluate_model", "run the same command again to continue"),
        (EVALUATE, "pipeline.evaluate.evaluate_model", "nothing was kept; the same command starts anew"),
        (ROLLOUTS, "pipeline.stages.sample_to_file", "run the same command again to continue"),
        (VERIFY, "pipeline.grading.grade", "nothing was kept; the same command starts anew"),
    ],
)
def test_ctrl_c_promises_to_continue_only_where_the_command_does(line, place, advice, monkeypatch, capsys):
    monkeypatch.setattr(f"sage_dpo.{place}", interrupt)
    assert command(monkeypatch, line) == 130
    assert capsys.readouterr().err == f"\ninterrupted; {advice}\n"


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (PermissionError(13, "Permission denied", "out/x.json"), "error: out/x.json: Permission denied\n"),
        (OSError(28, "No space left on device"), "error: [Errno 28] No space left on device\n"),
        (MemoryError(), "error: out of memory; give less data at a time, or more memory\n"),
    ],
)
def test_what_the_system_refuses_is_one_line(raised, message, monkeypatch, capsys):
    def refuse(*_args, **_kwargs):
        raise raised

    monkeypatch.setattr("sage_dpo.cli.recipes.load_config", refuse)
    assert command(monkeypatch, "run r.yaml") == 2
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:126] DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/1"),
            "room",
        ),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "room"),
    ],
)
def test_what_runs_out_is_one_line(error, said, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("sage_dpo.cli.recipes.load_config", fail)
    assert command(monkeypatch, "run r.yaml") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed
    assert printed.count("\n") == 1
