"""A short supervised stage before preferences, with TRL's SFTTrainer: a pretrained chat model learns how to answer the
everyday questions, briefly, and is saved where a recipe finds it. The questions are of a split of their own.

    python examples/supervised_start.py --output runs/smollm2-start
    sage-dpo run recipes/smollm2.yaml --set policy.path=runs/smollm2-start
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from sage_dpo.config import PolicySettings
from sage_dpo.everyday.world import generate_problems
from sage_dpo.pipeline.policies import load_model, load_tokenizer


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="smollm2, a folder or a hub id")
    parser.add_argument("--output", type=Path, default=Path("runs/smollm2-start"))
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=16, help="questions of a step")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    policy = PolicySettings(path=options.model)
    problems = generate_problems("start", options.steps * options.batch_size, seed=options.seed)
    rows = [
        {
            "prompt": [{"role": "user", "content": problem.problem}],
            "completion": [{"role": "assistant", "content": f"The answer is {problem.answer}."}],
        }
        for problem in problems
    ]
    trainer = SFTTrainer(
        model=load_model(policy),
        processing_class=load_tokenizer(policy),
        args=SFTConfig(
            output_dir=str(options.output / "training"),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            bf16=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            logging_steps=5,
            save_strategy="no",
            report_to="none",
            seed=options.seed,
        ),
        train_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    trainer.save_model(str(options.output))
    print(f"saved to {options.output}")


if __name__ == "__main__":
    main()
