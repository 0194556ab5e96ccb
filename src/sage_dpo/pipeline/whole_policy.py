"""The policy in training as one whole model, also where FSDP or ZeRO-3 spreads its weights over the
processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sage_dpo.config import PolicySettings, RunConfig
from sage_dpo.errors import ConfigError
from sage_dpo.pipeline.policies import load_trained, release_memory
from sage_dpo.processes import Processes
from sage_dpo.selection.source import PairSource, PoolContents
from sage_dpo.training import SAGEConfig, SAGETrainer

Result = TypeVar("Result")


class WholePolicy:
    """Gives each process the policy to sample from.

    Spread weights are written to a folder, from which every process loads all of them beside its part. They cannot be
    sampled from as they are: a process samples as long as its completions are, and layers whose weights have to be
    gathered at each call must be called equally often on all.

    Args:
        trainer: whose policy it is.
        settings: of the policy before training.
        folder: where it is written, and deleted once it is loaded; seen by all processes.
        processes: of the run, each of which asks at the same time.
    """

    def __init__(self, trainer: SAGETrainer, settings: PolicySettings, folder: Path, processes: Processes) -> None:
        self._trainer, self._settings, self._folder, self._processes = trainer, settings, folder, processes

    @contextmanager
    def __call__(self) -> Iterator[Any]:
        """Yield the policy as it is now."""
        if not self._trainer.is_sharded:
            yield self._trainer.model
            return
        self._trainer.save_model(str(self._folder))
        self._processes.wait()
        whole = load_trained(self._settings, self._folder)
        self._processes.wait()
        if self._processes.is_main:
            shutil.rmtree(self._folder)
        yield whole
        del whole
        release_memory()

    def given(self, work: Callable[..., Result]) -> Callable[..., Result]:
        """Return `work`, which takes a policy first, such that it gets this one."""

        def with_whole(_: Any, *args: Any, **kwargs: Any) -> Result:
            with self() as policy:
                return work(policy, *args, **kwargs)

        return with_whole


class WholePolicySource:
    """Makes the pairs of a refresh with the whole policy; see `PairSource`."""

    def __init__(self, source: PairSource, policy: WholePolicy) -> None:
        self._refresh, self._restore = policy.given(source.refresh), source.restore

    def refresh(self, model: Any, *, version: int, step: int) -> PoolContents:
        return self._refresh(model, version=version, step=step)

    def restore(self, *, version: int) -> PoolContents:
        return self._restore(version=version)


def check_saved(config: RunConfig, arguments: SAGEConfig) -> None:
    """Refuse ZeRO-3 that would not save the trained policy as a whole.

    Args:
        config: of an arm.
        arguments: of its trainer.

    Raises:
        ConfigError: with the setting to change.
    """
    plugin: Any = arguments.deepspeed_plugin
    if plugin is None or int(plugin.zero_stage) != 3 or config.policy.lora is not None:
        return
    if not plugin.zero3_save_16bit_model:
        raise ConfigError(
            "DeepSpeed ZeRO-3 is configured without zero3_save_16bit_model (in DeepSpeed's own file "
            "stage3_gather_16bit_weights_on_model_save), so that a trained policy would be saved in parts that nothing "
            "loads; set it to true, as in `sage-dpo recipes show accelerate/zero3`"
        )
