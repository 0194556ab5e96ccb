"""Trains on several processes; started by test_distributed.py and test_deepspeed.py."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import torch
from peft import LoraConfig
from tests.support.cpu_shards import shard_on_cpu
from tests.support.tiny import make_tiny_tokenizer
from tests.support.training import losses, make_arguments, make_preferences

from sage_dpo import SAGETrainer
from sage_dpo.pipeline.arms import let_go
from sage_dpo.pipeline.policies import release_memory
from sage_dpo.selection.log import read_candidates


def main() -> None:
    policy, folder, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    resume, is_lora = options.pop("resume", None), options.pop("lora", False)
    columns = options.pop("columns", {})
    if options.pop("is_sharded", False):
        shard_on_cpu()
        options["use_cpu"] = False
    trainer = SAGETrainer(
        policy,
        args=make_arguments(folder, **{"gradient_accumulation_steps": 1, "refresh_steps": 2, **options}),
        train_dataset=make_preferences(**columns),
        processing_class=make_tiny_tokenizer(),
        peft_config=LoraConfig(r=2, init_lora_weights="gaussian", task_type="CAUSAL_LM") if is_lora else None,
    )
    trainer.train(resume_from_checkpoint=resume)
    model = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    kinds = {p.ds_status.name if hasattr(p, "ds_status") else type(p).__name__ for p in trainer.model.parameters()}
    if trainer.accelerator.is_main_process:
        rows = read_candidates(folder / "candidates")
        torch.save(
            {
                "kinds": kinds,
                "weights": {name: tensor.clone() for name, tensor in model.items()},
                "losses": losses(trainer),
                "kept": [(row.step, row.pair_id) for row in rows if row.is_kept],
                "counts": trainer.token_counts.as_dict(),
            },
            folder / "result.pt",
        )
    accelerator = trainer.accelerator
    let_go(trainer)
    del trainer, model
    release_memory()
    if kinds != {"NOT_AVAILABLE"}:  # DeepSpeed 0.19 keeps ZeRO-3's
        assert not [one for one in gc.get_objects() if type(one).__name__ == "DeepSpeedEngine"]
    accelerator.end_training()
    # What the interpreter takes down on its way out may still be used by gloo's threads, which then abort the process
    # (pytorch/pytorch#179291), also with the group destroyed: the trainer holds it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
