"""FSDP and DeepSpeed on the CPU, over gloo.

accelerate (1.15) shards over accelerators only: on CPUs it leaves the settings of both unread, without a word, though
PyTorch's `fully_shard` and DeepSpeed run there. So the processes are given out as those of GPUs, whose device is the
CPU.
"""

from __future__ import annotations

import os

from accelerate.state import PartialState
from accelerate.utils import DistributedType


def shard_on_cpu() -> None:
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


if __name__ == "__main__":  # the command line, so
    shard_on_cpu()
    from sage_dpo.cli import main

    main()
