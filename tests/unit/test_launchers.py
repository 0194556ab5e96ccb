"""The configurations of `accelerate launch` that come with the package, read by accelerate itself."""

from __future__ import annotations

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from typer.testing import CliRunner

from sage_dpo.cli import app
from sage_dpo.config import builtin_launchers, find_launcher
from sage_dpo.errors import ConfigError

KINDS = {
    "accelerate/ddp": DistributedType.MULTI_GPU,
    "accelerate/fsdp2": DistributedType.FSDP,
    "accelerate/zero2": DistributedType.DEEPSPEED,
    "accelerate/zero3": DistributedType.DEEPSPEED,
}


def arguments_of(name: str):
    """What `accelerate launch` makes of a configuration."""
    command = ["--config_file", str(find_launcher(name)), "--num_processes", "4", "-m", "sage_dpo", "run", "quickstart"]
    arguments = launch_command_parser().parse_args(command)
    _validate_launch_command(arguments)
    return arguments


def test_each_is_there() -> None:
    assert builtin_launchers() == list(KINDS)
    shown = CliRunner().invoke(app, ["recipes", "show", "accelerate/ddp"], catch_exceptions=False).output
    assert shown == find_launcher("accelerate/ddp").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'accelerate/tpu' does not exist; give one of accelerate/ddp, "):
        find_launcher("accelerate/tpu")


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_accelerate_loads_it_and_knows_every_key(name: str, kind: DistributedType) -> None:
    config = load_config_from_file(str(find_launcher(name)))
    assert config.distributed_type == kind
    assert config.mixed_precision == "bf16"
    arguments = arguments_of(name)
    assert (arguments.num_processes, arguments.training_script) == (4, "sage_dpo")
    assert (arguments.use_fsdp, arguments.use_deepspeed) == (kind == "FSDP", kind == "DEEPSPEED")


def test_fsdp_is_the_second_and_saves_whole_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = prepare_multi_gpu_env(arguments_of("accelerate/fsdp2"))
    for name, value in environment.items():
        if name.startswith(("FSDP", "ACCELERATE")):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    assert not plugin.cpu_ram_efficient_loading


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_has_the_stage_of_its_name(stage: int) -> None:
    arguments = arguments_of(f"accelerate/zero{stage}")
    assert int(arguments.zero_stage) == stage
    assert str(arguments.zero3_save_16bit_model).lower() == str(stage == 3).lower()
